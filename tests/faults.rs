//! What goes wrong around a call and not in it: a fork, a panic of the caller's own code, a driver that is none. Each ends in an error,
//! or in the panic that the caller made, and the process goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use fused_loss::*;

/// Enough to wake the thread pool: 2^16 elements, for one region 2^18.
const MANY: usize = 1 << 18;

/// Value and gradient of losses that between them use the pool in every way, as bits.
fn large_calls() -> Vec<u32> {
    let x: Vec<f32> = (0..MANY).map(|i| (i % 1000) as f32 / 250.0 - 2.0).collect();
    let t: Vec<f32> = (0..MANY).map(|i| f32::from(i % 3 == 0)).collect();
    let classes: Vec<i64> = (0..MANY / 8).map(|i| (i % 8) as i64).collect();
    let (mut grad, mut all) = (vec![0.0; MANY], vec![]);
    let mut add = |value: Result<f32>, grad: &[f32]| {
        all.push(value.unwrap().to_bits());
        all.extend(grad.iter().map(|g| g.to_bits()));
    };
    let value = BceWithLogits::new().forward_backward(&x, &t, Reduction::Mean, &mut grad);
    add(value, &grad);
    let value = CrossEntropy::new().forward_backward(&x, &classes, (MANY / 8, 8), Reduction::Mean, &mut grad);
    add(value, &grad);
    // One region, which is split, and many, which are dealt out.
    for shape in [[1, 1, MANY], [4, 4, MANY / 16]] {
        let value = DiceLoss::new().sigmoid().forward_backward(&x, &t, shape, Reduction::Mean, &mut grad);
        add(value, &grad);
    }
    let value = DiceLoss::new().softmax().forward_backward(&x, &t, [1, 2, MANY / 2], Reduction::Mean, &mut grad);
    add(value, &grad);
    all
}

/// A child has none of its parent's threads, and would wait for them forever.
#[test]
#[cfg(unix)]
fn a_forked_child_computes_what_its_parent_does() {
    let want = large_calls();
    // SAFETY: the child calls the crate, allocates as glibc lets it, and leaves without unwinding.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no fork");
    if child == 0 {
        let same = catch_unwind(|| large_calls() == want).unwrap_or(false);
        // SAFETY: it ends here.
        unsafe { libc::_exit(if same { 0 } else { 1 }) };
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut status = 0;
    // SAFETY: our child.
    while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
        if std::time::Instant::now() > deadline {
            // SAFETY: our child still.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child waits for threads that it does not have");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child ended with {status:#x}");
    assert!(large_calls() == want, "the parent goes on");
}

/// The panic of a formula is its author's, whichever thread runs it, and spoils nothing for calls after it.
#[test]
fn a_formula_that_panics_on_a_worker_ends_its_call_alone() {
    static ANGRY: AtomicBool = AtomicBool::new(true);
    let formula = |x: f32, t: f32, []: [f32; 0]| {
        assert!(!ANGRY.load(Ordering::Relaxed) || x < 1.0, "the formula's own panic");
        ((x - t) * (x - t), 2.0 * (x - t))
    };
    let loss = Custom::new("angry", [], formula).unwrap();
    let (mut x, t) = (vec![0.5f32; MANY], vec![0.0f32; MANY]);
    x[MANY - 3] = 2.0;
    let mut grad = vec![0.0; MANY];
    for _ in 0..3 {
        let run = || loss.forward_backward(&x, &t, Reduction::Sum, &mut grad);
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("the panic comes through");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the formula's own panic"));
    }
    ANGRY.store(false, Ordering::Relaxed);
    let value = loss.forward_backward(&x, &t, Reduction::Sum, &mut grad).unwrap();
    assert_eq!((value, grad[0], grad[MANY - 3]), ((MANY - 1) as f32 * 0.25 + 4.0, 1.0, 4.0));
    assert_eq!(Mse::new().forward(&x, &t, Reduction::Sum), Ok(value));
}

/// A rank of a group that panics is an error of the others, which would wait for it otherwise.
#[test]
fn a_rank_that_panics_is_lost_to_the_others() {
    use fused_loss::parallel::{Communicator, Local, Vocab};
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        let threads = Local::group(3).into_iter().map(|rank| {
            scope.spawn(move || {
                let vocab = Vocab::new(&rank, 2)?;
                if rank.rank() == 1 {
                    // Without a message on the terminal.
                    std::panic::resume_unwind(Box::new("the caller's own panic"));
                }
                let mut grad = [0.0; 2];
                let call = CrossEntropy::new().across(&vocab).call(&[0.5f32, -1.0], &[2i64]);
                call.forward_backward(Reduction::Mean, &mut grad)
            })
        });
        let threads: Vec<_> = threads.collect();
        outcomes = threads.into_iter().map(|thread| thread.join()).collect();
    });
    assert!(outcomes[1].is_err());
    for rank in [0, 2] {
        assert_eq!(outcomes[rank].as_ref().unwrap(), &Err(Error::RankLost { rank: 1 }));
    }
}

/// A libcuda that is opened and is not what it should be: this test runs itself beside one.
#[test]
#[cfg(all(unix, feature = "cuda"))]
fn a_driver_that_lacks_functions_or_fails_is_an_error_and_the_cpu_serves() {
    if std::env::var_os("FUSED_LOSS_FAULTY_DRIVER").is_some() {
        let errors = [Device::cuda(0).err(), Device::cuda(7).err(), Cuda::device(0).err()];
        let device = Device::auto();
        assert!(!device.is_cuda());
        let x = device.buffer(&[1.0f32, 3.0]).unwrap();
        let zeros = device.zeros(2).unwrap();
        assert_eq!(Mse::new().on(&device).forward(&x, &zeros, Reduction::Sum), Ok(10.0));
        for error in errors {
            println!("SAYS {}", error.expect("there is no GPU"));
        }
        return;
    }
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty_drivers");
    let no_device = "int cuInit(unsigned f) { return 100; } int cuDeviceGetCount(int* n) { return 100; }";
    let drivers = [
        ("empty", String::new(), "has no cu"),
        // As old as they come, and one that has all of the usual beginning.
        ("old", format!("{no_device} int cuDriverGetVersion(int* v) {{ return *v = 4000, 0; }}"), "has no cu"),
        ("garbage", "not C".into(), "libcuda could not be loaded"),
    ];
    for (name, source, says) in drivers {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (file, library) = (folder.join("driver.c"), folder.join("libcuda.so.1"));
        std::fs::write(&file, &source).unwrap();
        if name == "garbage" {
            std::fs::write(&library, "no library").unwrap();
        } else {
            let cc = std::env::var("CC").unwrap_or("cc".into());
            let made =
                std::process::Command::new(cc).args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&file).status();
            assert!(made.unwrap().success());
        }
        let name_of_this = "a_driver_that_lacks_functions_or_fails_is_an_error_and_the_cpu_serves";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name_of_this, "--nocapture"]).env("FUSED_LOSS_FAULTY_DRIVER", "1");
        let out = again.env("LD_LIBRARY_PATH", &folder).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{name}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("SAYS ")).collect();
        assert!(lines.len() == 3 && lines.iter().all(|line| line.contains(says)), "{name}: {said}");
    }
}
