//! The tests of edge cases, golden values and determinism, which are written for the CPU, with all their calls taken to the CUDA
//! kernels: on a GPU where there is one, else executed on the host. In debug builds only (see src/elsewhere.rs).
#![cfg(debug_assertions)]
// The tests of edge cases and of determinism share a module, and are crates of their own elsewhere.
#![allow(clippy::duplicate_mod)]

mod cases;
#[path = "determinism.rs"]
mod determinism;
#[path = "edge_cases/main.rs"]
mod edge_cases;
#[path = "golden.rs"]
mod golden;
mod host_exec;
#[path = "kernels_on_host/marshal.rs"]
#[allow(dead_code)]
mod marshal;
#[path = "kernels_on_host/trace.rs"]
#[allow(dead_code)]
mod trace;

use std::io::Write;

use fused_loss::elsewhere::{self, Elsewhere};
use fused_loss::launch::{self, Average, Kernel, Memory, Request, Targets, params, plan};
use fused_loss::{Error, Result};

/// Before any test runs.
#[ctor::ctor]
fn take_calls_elsewhere() {
    #[cfg(feature = "cuda")]
    if let Ok(gpu) = on_gpu::OnGpu::new() {
        return elsewhere::go(Box::leak(Box::new(gpu)));
    }
    let required = std::env::var("FUSED_LOSS_REQUIRE_GPU").is_ok_and(|v| v == "1");
    assert!(!required, "FUSED_LOSS_REQUIRE_GPU is 1 and there is no GPU");
    if host_exec::possible() {
        elsewhere::go(&OnHost);
    } else {
        let _ = writeln!(std::io::stderr(), "SKIPPED, the tests by kernels: these are the CPU's once more");
    }
}

/// Kernels executed on the host.
struct OnHost;

impl OnHost {
    /// All ways of one call get the same machine, for they shall give the same bits.
    fn launcher(len: usize) -> marshal::OnHost {
        marshal::OnHost::new(len + len / 3, trace::Buffers::default())
    }
}

impl Elsewhere for OnHost {
    fn run(&self, kernel: &Kernel, request: &Request) -> Result<()> {
        let mut launcher = Self::launcher(request.input.len);
        // SAFETY: the buffers are those of a call of the first door, which has borrowed them.
        unsafe { launch::run_kernel(kernel, request, &mut launcher)? };
        match launcher.finish() {
            0 => Ok(()),
            // SAFETY: as above.
            error => Err(unsafe { bad_class(request, !error as usize) }),
        }
    }

    fn average(&self, call: &Average) {
        let mut launcher = Self::launcher(call.high.len);
        // SAFETY: as above.
        unsafe { launch::run_average(call, &mut launcher).unwrap() };
        launcher.finish();
    }
}

/// What the CPU says of a class index out of range; a GPU knows its row.
///
/// # Safety
/// The targets can be read.
unsafe fn bad_class(request: &Request, row: usize) -> Error {
    fn at<I: Copy + Into<i64>>(indices: Memory, row: usize) -> i64 {
        assert!(row < indices.len);
        // SAFETY: the caller's promise, and it is in bounds.
        unsafe { *(indices.address as *const I).add(row) }.into()
    }
    let index = match request.targets {
        Targets::I64(t) => at::<i64>(t, row),
        Targets::I32(t) => at::<i32>(t, row),
        Targets::U32(t) => at::<u32>(t, row),
        Targets::U8(t) => at::<u8>(t, row),
        Targets::Nothing | Targets::Dense(_) => panic!("no indices"),
    };
    Error::ClassIndex { row, index, classes: request.shape.unwrap().classes() }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use std::sync::Mutex;

    use fused_loss::Cuda;
    use fused_loss::cudarc::driver::{CudaSlice, DevicePtr};
    use fused_loss::launch::{Output, Weight};

    use super::*;

    /// The first GPU. One call at a time: a check of the error word is of the call before it.
    pub struct OnGpu(Mutex<Cuda>);

    /// A buffer of the host with a copy on the GPU: at the same place between two 16-byte boundaries, with canaries around it.
    struct Lent {
        host: Memory,
        copy: CudaSlice<u8>,
        before: usize,
        written: bool,
    }

    const AFTER: usize = 24;
    const CANARY: u8 = 0x5a;

    struct Lender<'a> {
        cuda: &'a Cuda,
        lent: Vec<Lent>,
    }

    impl Lender<'_> {
        fn lend(&mut self, x: Memory, size: usize, written: bool) -> Memory {
            let (host, before) = (Memory { address: x.address, len: x.len * size }, x.address as usize % 16);
            let mut bytes = vec![CANARY; before + host.len + AFTER];
            // SAFETY: the caller of the first door has borrowed it.
            let of_host = unsafe { std::slice::from_raw_parts(host.address as *const u8, host.len) };
            bytes[before..before + host.len].copy_from_slice(of_host);
            let stream = self.cuda.stream();
            let copy = stream.clone_htod(&bytes).unwrap();
            let address = copy.device_ptr(stream).0 + before as u64;
            self.lent.push(Lent { host, copy, before, written });
            Memory { address, len: x.len }
        }

        fn back(self) {
            for Lent { host, copy, before, written } in self.lent {
                let bytes = self.cuda.stream().clone_dtoh(&copy).unwrap();
                self.cuda.stream().synchronize().unwrap();
                let (inside, around) =
                    (&bytes[before..before + host.len], [&bytes[..before], &bytes[before + host.len..]]);
                assert!(around.concat().iter().all(|&b| b == CANARY), "wrote outside a buffer");
                if written {
                    // SAFETY: as for `lend`; this one was borrowed to be written.
                    unsafe { std::slice::from_raw_parts_mut(host.address as *mut u8, host.len) }
                        .copy_from_slice(inside);
                }
            }
        }
    }

    impl OnGpu {
        pub fn new() -> Result<Self> {
            Cuda::device(0).map(|cuda| OnGpu(Mutex::new(cuda)))
        }
    }

    impl Elsewhere for OnGpu {
        fn run(&self, kernel: &Kernel, request: &Request) -> Result<()> {
            let cuda = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
            let mut lender = Lender { cuda: &cuda, lent: Vec::new() };
            let size = request.dtype.bytes as usize;
            let mut there = *request;
            there.input = lender.lend(request.input, size, request.in_place);
            there.grad_input = match request.grad_input {
                Some(_) if request.in_place => Some(there.input),
                grad => grad.map(|g| lender.lend(g, size, true)),
            };
            there.grad_target = request.grad_target.map(|g| lender.lend(g, size, true));
            there.terms = request.terms.map(|t| lender.lend(t, 4, true));
            there.third = request.third.map(|x| lender.lend(x, size, false));
            there.grad_third = request.grad_third.map(|g| lender.lend(g, size, true));
            let mut float = |x: Option<Memory>| x.map(|x| lender.lend(x, 4, true));
            there.report = launch::Report {
                log_prob: float(request.report.log_prob),
                entropy: float(request.report.entropy),
                lse: float(request.report.lse),
                hit: float(request.report.hit),
                argmax: request.report.argmax.map(|x| lender.lend(x, 8, true)),
            };
            there.targets = match request.targets {
                Targets::Nothing => Targets::Nothing,
                Targets::Dense(t) => Targets::Dense(lender.lend(t, size, false)),
                Targets::I64(t) => Targets::I64(lender.lend(t, 8, false)),
                Targets::I32(t) => Targets::I32(lender.lend(t, 4, false)),
                Targets::U32(t) => Targets::U32(lender.lend(t, 4, false)),
                Targets::U8(t) => Targets::U8(lender.lend(t, 1, false)),
            };
            there.weight = request.weight.map(|weight| match weight {
                Weight::PerElement(w) => Weight::PerElement(lender.lend(w, 4, false)),
                Weight::PerSample(w) => Weight::PerSample(lender.lend(w, 4, false)),
            });
            there.class_weight = request.class_weight.map(|w| lender.lend(w, 4, false));
            there.output = match request.output {
                Output::Reduced(reduction, value) => Output::Reduced(reduction, value.map(|v| lender.lend(v, 4, true))),
                Output::Over(..) => unreachable!("the first door has no numbers of a GPU"),
                Output::Unreduced { losses, grad_output } => Output::Unreduced {
                    losses: losses.map(|l| lender.lend(l, 4, true)),
                    grad_output: grad_output.map(|g| lender.lend(g, 4, false)),
                },
            };
            // SAFETY: these buffers are the GPU's, and live until they have been copied back.
            unsafe { launch::run_on(&cuda, kernel, &there)? };
            let checked = cuda.check();
            lender.back();
            match checked {
                // SAFETY: the targets are the caller's.
                Err(Error::ClassIndexOnDevice { row }) => Err(unsafe { bad_class(request, row) }),
                checked => checked,
            }
        }

        fn average(&self, call: &Average) {
            let cuda = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
            let mut lender = Lender { cuda: &cuda, lent: Vec::new() };
            let size = call.dtype.bytes as usize;
            let mut there = *call;
            there.high = lender.lend(call.high, size, false);
            there.low = lender.lend(call.low, size, false);
            there.grads = call.grads.map(|both| both.map(|g| lender.lend(g, size, true)));
            there.value = call.value.map(|v| lender.lend(v, 4, true));
            // SAFETY: as above.
            unsafe { launch::run_average_on(&cuda, &there).unwrap() };
            lender.back();
        }
    }
}
