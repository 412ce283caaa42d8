//! The host side of the CUDA backend, as far as it goes without a GPU: what it launches, what it refuses, and what it says where
//! there is no driver.

use std::collections::BTreeSet;

use fused_loss::launch::{self, Launch, Memory, Output, Params, Request, Scalar, params::LaunchArgs, plan};
use fused_loss::{Device, Error, Loss, Reduction, Result, Shape, Target};

mod cases;

use cases::draw::{Dims, Rng};
use cases::job::{AnyLoss, Apply, Job, Verb, Weight};
use cases::{Family, Targets, table};

/// Notes what would be launched.
#[derive(Default)]
struct Notes {
    launches: Vec<(String, String, plan::Plan, LaunchArgs)>,
    cluster: u32,
}

impl Launch for Notes {
    fn limits(&self) -> plan::Limits {
        plan::Limits { shared: 224 << 10, cluster: self.cluster.max(1) }
    }
    fn workspace(&self) -> u64 {
        64
    }
    fn scratch(&mut self, _: u64) -> Result<u64> {
        Ok(128)
    }
    unsafe fn launch(
        &mut self,
        file: &str,
        name: &str,
        plan: &plan::Plan,
        args: &LaunchArgs,
        _: &Params,
    ) -> Result<()> {
        self.launches.push((file.into(), name.into(), *plan, *args));
        Ok(())
    }
}

struct Noted<'a>(&'a Request, &'a mut Notes);

impl Apply for Noted<'_> {
    fn to<L: Loss>(self, loss: L) -> Result<f32> {
        // SAFETY: nothing is launched.
        unsafe { launch::run(&loss, self.0, self.1) }.map(|()| 0.0)
    }
}

/// A buffer that is never touched.
fn memory(len: usize) -> Memory {
    Memory { address: 1 << 20, len }
}

fn note(loss: AnyLoss, request: &Request) -> Result<Notes> {
    let mut notes = Notes { cluster: 8, ..Notes::default() };
    loss.apply(Noted(request, &mut notes))?;
    Ok(notes)
}

fn targets(kind: Targets, elements: usize, rows: usize) -> launch::Targets {
    match kind {
        Targets::Nothing => launch::Targets::Nothing,
        Targets::Dense(_) => launch::Targets::Dense(memory(elements)),
        Targets::Index => launch::Targets::I64(memory(rows)),
    }
}

/// Every kernel that any call may ask for is there: in its file's source, and in its PTX where there is an nvcc.
#[test]
fn every_kernel_that_is_launched_exists() {
    let mut names = BTreeSet::new();
    for case in table() {
        for dims in [(4, 3, 1), (2, 40, 1), (2, 3, 5), (1, 5000, 1)] {
            let (outer, classes, inner) = (dims.0, case.classes.unwrap_or(dims.1), dims.2);
            let elements = outer * classes * inner;
            let shape = if inner == 1 { (outer, classes).into() } else { [outer, classes, inner].into() };
            let shaped = !matches!(case.family, Family::Elements { .. });
            let target = targets(case.targets, elements, outer * inner);
            let mut request = Request::new::<half::bf16>(memory(elements), target, shaped.then_some(shape));
            request.third = case.third.as_ref().map(|third| memory(third.len(Dims::new(outer, classes, inner))));
            for (accumulate, grad) in [(false, false), (false, true), (true, true)] {
                request.accumulate = accumulate;
                request.grad_input = grad.then_some(memory(elements));
                request.output = Output::Reduced(Reduction::Mean, Some(memory(1)));
                for launch in note(case.loss, &request).unwrap().launches {
                    names.insert((launch.0, launch.1));
                }
            }
        }
    }
    let mut notes = Notes::default();
    let call = launch::Average {
        dtype: launch::Dtype::of::<half::bf16>(),
        high: memory(7),
        low: memory(3),
        grads: Some([memory(7), memory(3)]),
        value: Some(memory(1)),
        grad_output: Scalar::Host(1.0),
        accumulate: false,
    };
    // SAFETY: nothing is launched.
    unsafe { launch::run_average(&call, &mut notes).unwrap() };
    names.extend(notes.launches.into_iter().map(|launch| (launch.0, launch.1)));
    assert!(names.len() > 60, "{names:?}");

    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = std::path::Path::new(env!("FUSED_LOSS_PARAMS_H")).parent().unwrap();
    // The tests' own losses are no files here: src/cuda/jit/tests.rs compiles such.
    for (file, name) in names.into_iter().filter(|(file, _)| !file.starts_with("custom_")) {
        assert!(root.join(format!("kernels/{file}.cu")).exists(), "{name}: no {file}.cu");
        for capability in [75, 90] {
            if let Ok(ptx) = std::fs::read_to_string(out.join(format!("{file}.{capability}.ptx"))) {
                assert!(ptx.contains(&format!(".entry {name}(")), "{name} is not in {file}.{capability}.ptx");
            }
        }
    }
}

/// What a random call is made of.
#[derive(Clone, Copy, Debug)]
struct Draft {
    dims: [usize; 3],
    input: usize,
    target: usize,
    kind: Targets,
    weight: Option<(bool, usize)>,
    class_weight: Option<usize>,
    grad: usize,
    grad_target: Option<usize>,
    third: Option<usize>,
    grad_third: Option<usize>,
    losses: usize,
    above: usize,
    accumulate: bool,
    reduction: Reduction,
    verb: usize,
}

impl Draft {
    fn draw(case: &cases::Case, rng: &mut Rng) -> Self {
        let dims = [rng.below(4), case.classes.unwrap_or(1 + rng.below(4)), 1 + rng.below(3)];
        let elements = dims.iter().product();
        let rows = dims[0] * dims[2];
        let losses = match &case.family {
            Family::Elements { .. } => elements,
            Family::Rows { .. } => rows,
            Family::Regions { .. } => dims[0] * dims[1],
        };
        // Now and then something else than what fits.
        let mut near = |n: usize| if rng.once_in(12) { n + 1 } else { n };
        let of_kind = |kind: Targets| if kind == Targets::Index { rows } else { elements };
        let mut draft = Draft {
            dims,
            input: near(elements),
            target: near(of_kind(case.targets)),
            kind: case.targets,
            weight: None,
            class_weight: None,
            grad: near(elements),
            grad_target: None,
            third: case.third.as_ref().map(|third| near(third.len(Dims::new(dims[0], dims[1], dims[2])))),
            grad_third: None,
            losses: near(losses),
            above: near(losses),
            accumulate: false,
            reduction: Reduction::Mean,
            verb: 0,
        };
        if rng.once_in(3) {
            draft.weight = Some((rng.once_in(2), [losses, losses + 1, 1, 0, losses / 2][rng.below(5)]));
        }
        if rng.once_in(3) {
            draft.class_weight = Some([dims[1], dims[1] - 1, dims[1] + 1, 0][rng.below(4)]);
        }
        if rng.once_in(4) {
            draft.grad_target = Some(elements + usize::from(rng.once_in(4)));
        }
        if case.third.is_some() != rng.once_in(8) && rng.once_in(2) {
            draft.grad_third = Some(elements + usize::from(rng.once_in(4)));
        }
        if rng.once_in(6) {
            draft.kind = [Targets::Nothing, Targets::Index, Targets::Dense(cases::Dense::Paired)][rng.below(3)];
            draft.target = of_kind(draft.kind);
        }
        draft.accumulate = rng.once_in(4);
        draft.reduction = [
            Reduction::Mean,
            Reduction::Sum,
            Reduction::WeightedMean,
            Reduction::BatchMean(dims[0]),
            Reduction::BatchMean(0),
            Reduction::BatchMean(3),
            Reduction::SumOver(2.0),
            Reduction::SumOver(-1.0),
            Reduction::SumOver(f64::NAN),
        ][rng.below(9)];
        draft.verb = rng.below(8);
        draft
    }

    fn shape(&self, case: &cases::Case) -> Option<Shape> {
        (!matches!(case.family, Family::Elements { .. })).then(|| self.dims.into())
    }

    fn on_cpu(&self, case: &cases::Case) -> Result<f32> {
        let (input, mut grad, mut grad_target) =
            (vec![0.5f32; self.input], vec![0.0; self.grad], vec![0.0; self.grad_target.unwrap_or(0)]);
        let (mut losses, above) = (vec![0.0; self.losses], vec![1.0; self.above]);
        let (dense, index) = (vec![0.5f32; self.target], vec![0i64; self.target]);
        let weight = vec![1.0; self.weight.map_or(0, |w| w.1)];
        let class_weight = vec![1.0; self.class_weight.unwrap_or(0)];
        let third = vec![0.5f32; self.third.unwrap_or(0)];
        let mut grad_third = vec![0.0; self.grad_third.unwrap_or(0)];
        let mut both = input.clone();
        let r = self.reduction;
        case.loss.run(Job {
            input: &input,
            target: match self.kind {
                Targets::Nothing => Target::Nothing,
                Targets::Dense(_) => Target::Dense(&dense),
                Targets::Index => Target::I64(&index),
            },
            shape: self.shape(case),
            weight: match self.weight {
                None => Weight::None,
                Some((false, _)) => Weight::PerElement(&weight),
                Some((true, _)) => Weight::PerSample(&weight),
            },
            class_weight: self.class_weight.map(|_| &class_weight[..]),
            grad_output: 1.0,
            accumulate: self.accumulate,
            grad_target: self.grad_target.map(|_| &mut grad_target[..]),
            third: self.third.map(|_| &third[..]),
            grad_third: self.grad_third.map(|_| &mut grad_third[..]),
            verb: match self.verb {
                0 => Verb::Forward(r),
                1 => Verb::ForwardBackward(r, &mut grad),
                2 => Verb::Backward(r, &mut grad),
                3 => Verb::ForwardUnreduced { losses: &mut losses },
                4 => Verb::ForwardBackwardUnreduced { grad_output: &above, losses: &mut losses, grad: &mut grad },
                5 => Verb::BackwardUnreduced { grad_output: &above, grad: &mut grad },
                6 => Verb::InPlace(r, &mut both),
                _ => Verb::InPlaceUnreduced { grad_output: &above, losses: &mut losses, buffer: &mut both },
            },
        })
    }

    fn on_gpu(&self, case: &cases::Case) -> Result<Notes> {
        let target = targets(self.kind, self.target, self.target);
        let mut request = Request::new::<f32>(memory(self.input), target, self.shape(case));
        request.weight = self.weight.map(|(per_sample, n)| match per_sample {
            false => launch::Weight::PerElement(memory(n)),
            true => launch::Weight::PerSample(memory(n)),
        });
        request.class_weight = self.class_weight.map(memory);
        request.accumulate = self.accumulate;
        request.grad_target = self.grad_target.map(memory);
        request.third = self.third.map(memory);
        request.grad_third = self.grad_third.map(memory);
        request.in_place = self.verb >= 6;
        request.grad_input = match self.verb {
            0 | 3 => None,
            6 | 7 => Some(memory(self.input)),
            _ => Some(memory(self.grad)),
        };
        let (losses, above) = (Some(memory(self.losses)), Some(memory(self.above)));
        request.output = match self.verb {
            0 | 1 | 6 => Output::Reduced(self.reduction, Some(memory(1))),
            2 => Output::Reduced(self.reduction, None),
            3 => Output::Unreduced { losses, grad_output: None },
            5 => Output::Unreduced { losses: None, grad_output: above },
            _ => Output::Unreduced { losses, grad_output: above },
        };
        note(case.loss, &request)
    }
}

/// What the CPU refuses is refused for a GPU, with the same words, and the rest is not.
#[test]
fn a_gpu_refuses_what_the_cpu_refuses() {
    let (mut refused, mut taken) = (0, 0);
    for (c, case) in table().iter().enumerate() {
        let mut rng = Rng::new(c as u64);
        for _ in 0..100 {
            let draft = Draft::draw(case, &mut rng);
            let typed = matches!(case.family, Family::Elements { .. }) || case.third.is_some();
            if draft.kind != case.targets && typed {
                // On the CPU element-wise losses, and those of three tensors, have no other targets by type.
                continue;
            }
            if case.targets == Targets::Nothing && draft.kind != Targets::Nothing {
                continue;
            }
            let (cpu, gpu) = (draft.on_cpu(case), draft.on_gpu(case));
            match (&cpu, &gpu) {
                (Ok(_), Ok(notes)) => {
                    taken += 1;
                    assert!(!notes.launches.is_empty(), "{}: {draft:?}", case.name);
                }
                (Err(cpu), Err(gpu)) => {
                    refused += 1;
                    // As text: a NaN is not itself.
                    assert_eq!(format!("{cpu:?}"), format!("{gpu:?}"), "{}: {draft:?}", case.name);
                }
                _ => panic!("{}: {draft:?}: the CPU says {cpu:?}, a GPU {:?}", case.name, gpu.map(|_| ())),
            }
        }
    }
    assert!(refused > 1000 && taken > 1000, "{refused} {taken}");
}

/// One value, and denominators and upstream gradients that the host knows are folded into one number.
#[test]
fn what_the_host_knows_is_folded_into_the_scale() {
    let loss: AnyLoss = fused_loss::Mse::new().into();
    let mut request = Request::new::<f32>(memory(10), launch::Targets::Dense(memory(10)), None);
    request.grad_input = Some(memory(10));
    request.grad_output = Scalar::Host(65536.0);
    request.output = Output::Reduced(Reduction::SumOver(3.0), Some(memory(1)));
    let args = note(loss, &request).unwrap().launches[0].3;
    assert_eq!((args.scale, args.denominator, args.grad_scale, args.divisor), ((65536.0 / 3.0) as f32, 3.0, 0, 0));
    request.grad_output = Scalar::Device(8);
    request.output = Output::Over(16, Some(memory(1)));
    let args = note(loss, &request).unwrap().launches[0].3;
    assert_eq!((args.scale, args.grad_scale, args.divisor, args.divide_by), (1.0, 8, 16, launch::params::BY_DEVICE));
    request.output = Output::Reduced(Reduction::Sum, Some(memory(2)));
    let refused = Error::Length { what: "value", expected: 1, got: 2 };
    assert_eq!(note(loss, &request).map(|_| ()), Err(refused));
}

/// Grids have their limits.
#[test]
fn more_regions_than_a_grid_has_blocks_are_refused() {
    let loss: AnyLoss = fused_loss::DiceLoss::new().into();
    let n = 1usize << 33;
    let shape = Some([n / 2, 2, 1].into());
    let mut request = Request::new::<f32>(memory(n), launch::Targets::Dense(memory(n)), shape);
    request.output = Output::Reduced(Reduction::Mean, Some(memory(1)));
    assert!(matches!(note(loss, &request), Err(Error::Unsupported { .. })));
}

/// No driver, no device, no kernels: an error that can be printed, and the CPU instead.
#[test]
fn a_machine_without_cuda_gets_an_error_and_no_panic() {
    for ordinal in [0, 1, 1000] {
        let Err(error) = Device::cuda(ordinal) else { continue };
        let known = matches!(
            error,
            Error::NoDriver
                | Error::DriverTooOld { .. }
                | Error::NoDevice { .. }
                | Error::KernelsNotBuilt
                | Error::NoNvrtc { .. }
                | Error::PtxTooNew { .. }
                | Error::CudaUnavailable(_)
                | Error::Cuda { .. }
        );
        assert!(known && !error.to_string().is_empty() && !format!("{error:?}").is_empty(), "{error}");
    }
    let device = Device::auto();
    assert!(!device.reason().is_empty() && !device.to_string().is_empty());
    assert_eq!(device.is_cuda(), Device::cuda(0).is_ok());
}

#[test]
fn devices_and_buffers_go_from_thread_to_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<Device>();
    shared::<fused_loss::Buffer<half::f16>>();
    shared::<Error>();
    #[cfg(feature = "cuda")]
    shared::<fused_loss::Cuda>();
}

#[test]
fn errors_say_what_to_do() {
    let says = |error: Error, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    };
    says(Error::KernelsNotBuilt, &["nvcc", "rebuild", "NVRTC", "pip install nvidia-cuda-nvrtc"]);
    let (ptx, compiler, driver) = ("9.0".into(), "13.0".into(), "12.4".into());
    says(Error::PtxTooNew { ptx, compiler, driver }, &["9.0", "13.0", "12.4", "update"]);
    says(Error::DriverTooOld { function: "cuStreamGetCtx" }, &["cuStreamGetCtx", "update"]);
    says(Error::NoDriver, &["libcuda", "install", "CPU"]);
    says(Error::NoDevice { ordinal: 3, devices: 2 }, &["3", "2"]);
}
