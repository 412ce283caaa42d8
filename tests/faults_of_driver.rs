//! A driver that fails: every function that is called, at every call of it, once and for good. And load: many threads on one handle, many
//! handles on one thread, and all of it given back. On the pretended driver (`tests/pretend`), which can be told to fail; says so where
//! there is another or none.
//!
//!     tests/pretend/run.sh --test faults_of_driver -- --test-threads 1
#![cfg(feature = "cuda")]

mod cases;

use std::ffi::{CString, c_char, c_int};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use fused_loss::cudarc::driver::CudaContext;
use fused_loss::*;
use libloading::Library;

/// The pretended driver.
struct Driver(Library);

impl Driver {
    /// Where it is the one that is loaded. `PRETEND_KERNELS` says that it must be.
    fn get() -> Option<Self> {
        // SAFETY: a driver, pretended or not.
        let library = unsafe { Library::new("libcuda.so.1") }.ok();
        // SAFETY: asked whether it is there.
        let pretended = |l: &Library| unsafe { l.get::<unsafe extern "C" fn() -> c_int>(b"pretend_failed") }.is_ok();
        let driver = library.filter(pretended).map(Driver);
        if driver.is_none() {
            assert!(std::env::var_os("PRETEND_KERNELS").is_none(), "the pretended driver is not the one that is found");
            let _ = writeln!(std::io::stderr(), "\nSKIPPED, faults of the driver: it is not the pretended one");
        }
        driver
    }

    /// From the `nth` call on of a function, or of any if there is no name.
    fn fail(&self, function: &str, nth: c_int, code: c_int, for_good: bool) {
        let name = CString::new(function).unwrap();
        // SAFETY: as it is declared in libcuda.c.
        unsafe {
            let fail = self.0.get::<unsafe extern "C" fn(*const c_char, c_int, c_int, c_int)>(b"pretend_fail").unwrap();
            fail(name.as_ptr(), nth, code, for_good.into());
        }
    }

    fn failed(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn() -> c_int>(b"pretend_failed").unwrap()() != 0 }
    }

    /// Bytes of memory, and streams.
    fn live(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.0.get::<unsafe extern "C" fn() -> u64>(b"pretend_live").unwrap()() }
    }
}

/// The tests take turns: faults are of the whole process.
static TURN: Mutex<()> = Mutex::new(());

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = cases::draw::Rng::new(seed);
    (0..n).map(|_| rng.uniform(0.05, 0.95) as f32).collect()
}

/// A day in the life of a program: a device, memory, losses of each skeleton, results. As bits.
fn program() -> Result<Vec<u32>> {
    let device = Device::cuda(0)?;
    let (x, t) = (device.buffer(&numbers(600, 1))?, device.buffer(&numbers(600, 2))?);
    let classes = device.buffer(&[1i64; 120])?;
    let (mut a, mut b) = (device.zeros::<f32>(600)?, x.try_clone()?);
    let values = [
        Mse::new().on(&device).forward_backward(&x, &t, Reduction::Mean, &mut a)?,
        CrossEntropy::new().on(&device).forward_backward(&x, &classes, (120, 5), Reduction::Mean, &mut b)?,
        DiceLoss::new().on(&device).forward(&x, &t, [2, 3, 100], Reduction::Mean)?,
    ];
    device.handle().expect("a GPU").check()?;
    let grads = [a.to_vec()?, b.to_vec()?].concat();
    Ok(values.iter().chain(&grads).map(|x| x.to_bits()).collect())
}

/// Runs the program while the driver fails: no panic, the right answer or an error that says something; and afterwards all is well.
fn endure(driver: &Driver, fault: &str, want: &[u32]) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(program));
    let fired = driver.failed();
    driver.fail("", 0, 0, false);
    match outcome.unwrap_or_else(|_| panic!("{fault}: a panic")) {
        // What fails while things are given back has no one to tell.
        Ok(got) => assert!(got == want, "{fault}: no error, and another answer"),
        Err(error) => {
            assert!(fired, "{fault}: {error}, without a fault");
            let known = matches!(
                error,
                Error::Cuda { .. } | Error::OutOfMemory { .. } | Error::NoDevice { .. } | Error::PtxTooNew { .. }
            );
            assert!(known && !error.to_string().is_empty(), "{fault}: {error:?}");
        }
    }
    let after = program().unwrap_or_else(|error| panic!("{fault}: afterwards {error}"));
    assert!(after == want, "{fault}: afterwards another answer");
    fired
}

const OUT_OF_MEMORY: c_int = 2;
const ILLEGAL_ADDRESS: c_int = 700;
const LAUNCH_FAILED: c_int = 719;

#[test]
fn whichever_call_of_the_driver_fails_it_is_an_error_and_the_next_program_runs() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(driver) = Driver::get() else { return };
    let want = program().unwrap();
    // What the crate asks a driver to have, and what cudarc calls where there is a pool of memory.
    let asked = include_str!("../src/cuda/driver.rs")
        .split('"')
        .filter(|text| text.starts_with("cu") && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    let functions: Vec<&str> = asked.chain(["cuMemAllocAsync", "cuMemFreeAsync"]).collect();
    assert!(functions.len() > 30, "{functions:?}");
    let mut faults = 0;
    for function in functions {
        let code = if function.starts_with("cuMemAlloc") { OUT_OF_MEMORY } else { LAUNCH_FAILED };
        for nth in 1..=12 {
            driver.fail(function, nth, code, false);
            if !endure(&driver, &format!("{function}, call {nth}"), &want) {
                break;
            }
            faults += 1;
        }
    }
    println!("{faults} faults");
    assert!(faults > 60, "{faults}");
}

#[test]
fn a_poisoned_context_is_an_error_of_every_call_and_of_no_program_after_it() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(driver) = Driver::get() else { return };
    let want = program().unwrap();
    let mut nth = 1;
    loop {
        driver.fail("", nth, ILLEGAL_ADDRESS, true);
        if !endure(&driver, &format!("poisoned from call {nth} on"), &want) {
            break;
        }
        nth += 3;
    }
    assert!(nth > 60, "{nth}");
}

#[test]
fn handles_are_dropped_in_any_order_and_from_any_thread() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(driver) = Driver::get() else { return };
    program().unwrap();
    let before = driver.live();
    let mut rng = cases::draw::Rng::new(7);
    for _ in 0..20 {
        // Boxes of things that hold on to each other.
        let mut things: Vec<Box<dyn std::any::Any + Send>> = Vec::new();
        let context = CudaContext::new(0).unwrap();
        for _ in 0..3 {
            let stream = context.new_stream().unwrap();
            things.push(Box::new(Cuda::new(&stream).unwrap()));
            things.push(Box::new(stream));
            let device = Device::cuda(0).unwrap();
            things.push(Box::new(device.buffer(&[1.0f32, 2.0]).unwrap()));
            things.push(Box::new(device.clone()));
            things.push(Box::new(device));
        }
        things.push(Box::new(context));
        let threads = (0..3).map(|_| {
            let count = (things.len() / 3 + 1).min(things.len());
            let mine: Vec<_> = (0..count).map(|_| things.swap_remove(rng.below(things.len()))).collect();
            std::thread::spawn(move || drop(mine))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(things);
    }
    assert_eq!(driver.live(), before, "bytes that were not given back");
    program().unwrap();
}

/// Under load every answer is that of the quiet run, and nothing is left.
#[test]
fn many_threads_on_a_handle_and_many_handles_on_a_thread() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(driver) = Driver::get() else { return };
    program().unwrap();
    let before = driver.live();
    {
        let context = CudaContext::new(0).unwrap();
        let shared = Cuda::new(&context.new_stream().unwrap()).unwrap();
        let (x, t) = (numbers(3000, 3), numbers(3000, 4));
        let run = |cuda: &Cuda, which: usize| {
            let stream = cuda.stream();
            let (input, target) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&t).unwrap());
            let (mut value, mut grad) =
                (stream.alloc_zeros::<f32>(1).unwrap(), stream.alloc_zeros::<f32>(3000).unwrap());
            match which % 3 {
                0 => BceWithLogits::new().on(cuda).forward_backward(
                    &input,
                    &target,
                    Reduction::Mean,
                    &mut value,
                    &mut grad,
                ),
                1 => {
                    let on = CrossEntropy::new().on(cuda);
                    on.forward_backward(&input, &target, (60, 50), Reduction::Mean, &mut value, &mut grad)
                }
                _ => {
                    let on = DiceLoss::new().on(cuda);
                    on.forward_backward(&input, &target, [3, 10, 100], Reduction::Mean, &mut value, &mut grad)
                }
            }
            .unwrap();
            let all = [stream.clone_dtoh(&value).unwrap(), stream.clone_dtoh(&grad).unwrap()].concat();
            stream.synchronize().unwrap();
            all.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let quiet: Vec<_> = (0..3).map(|which| run(&shared, which)).collect();
        let (rounds, check) =
            (12, |cuda: &Cuda, round: usize| assert!(run(cuda, round) == quiet[round % 3], "{round}"));
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (shared, check, context) = (&shared, &check, &context);
                scope.spawn(move || {
                    let own: Vec<_> = (0..4).map(|_| Cuda::new(&context.new_stream().unwrap()).unwrap()).collect();
                    for round in 0..rounds {
                        check(shared, round + thread);
                        check(&own[round % 4], round + thread);
                    }
                });
            }
        });
    }
    assert_eq!(driver.live(), before, "bytes that were not given back");
}

/// What the environment of a driver may be, and what each is called.
#[test]
fn a_driver_without_gpus_or_older_than_the_kernels_is_named() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    if Driver::get().is_none() {
        return;
    }
    let with = |variable: &str, value: &str| {
        // SAFETY: the tests take turns, and nothing else reads the environment meanwhile.
        unsafe { std::env::set_var(variable, value) };
        let outcome = (Device::cuda(0).map(|_| ()), Device::auto().is_cuda());
        // SAFETY: as above.
        unsafe { std::env::remove_var(variable) };
        outcome
    };
    let was_old = std::env::var_os("PRETEND_OLD").is_some();
    assert_eq!(with("PRETEND_DEVICES", "0"), (Err(Error::NoDevice { ordinal: 0, devices: 0 }), false));
    if !was_old && std::env::var_os("FUSED_LOSS_NVRTC").is_none() {
        let (old, on_gpu) = with("PRETEND_OLD", "1");
        assert!(matches!(old, Err(Error::PtxTooNew { .. })) && !on_gpu, "{old:?}");
        // Older than any kernel is for.
        let (small, on_gpu) = with("PRETEND_CAPABILITY", "60");
        assert!(matches!(small, Err(Error::KernelsNotBuilt)) && !on_gpu, "{small:?}");
        program().unwrap();
    }
}
