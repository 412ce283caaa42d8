//! What of the CUDA backend the battery does not see: devices, streams, graphs, foreign memory, bad classes. Needs a GPU; says so where
//! there is none, and fails there if FUSED_LOSS_REQUIRE_GPU is 1.
#![cfg(feature = "cuda")]

mod cases;

use std::sync::Arc;

use cases::gpu::cuda;
use fused_loss::cudarc::driver::{CudaStream, DevicePtr, sys};
use fused_loss::*;

fn read<T: fused_loss::cudarc::driver::DeviceRepr>(
    stream: &Arc<CudaStream>,
    x: &impl fused_loss::cudarc::driver::DevicePtr<T>,
) -> Vec<T> {
    let read = stream.clone_dtoh(x).unwrap();
    stream.synchronize().unwrap();
    read
}

/// A problem that every loss of elements can do.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = cases::draw::Rng::new(seed);
    (0..n).map(|_| rng.uniform(0.05, 0.95) as f32).collect()
}

#[test]
fn slices_and_views_of_cudarc_are_taken_as_they_are() {
    let Some(cuda) = cuda() else { return };
    let stream = cuda.stream();
    let (x, t) = (numbers(1000, 1), numbers(1000, 2));
    let (input, target) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&t).unwrap());
    let (mut value, mut grad) = (stream.alloc_zeros::<f32>(1).unwrap(), stream.alloc_zeros::<f32>(1000).unwrap());
    let mut want = vec![0.0; 1000];
    let on = Huber::new(0.1).unwrap().on(cuda);
    on.forward_backward(&input, &target, Reduction::Mean, &mut value, &mut grad).unwrap();
    let of_cpu = Huber::new(0.1).unwrap().forward_backward(&x, &t, Reduction::Mean, &mut want).unwrap();
    assert!((read(stream, &value)[0] - of_cpu).abs() <= 1e-6 * of_cpu);
    assert_eq!(read(stream, &grad), want);
    // Views, the gradient over a part of the buffer alone.
    let before = read(stream, &grad);
    let (a, b) = (input.slice(3..500), target.slice(3..500));
    on.forward_backward(&a, &b, Reduction::Sum, &mut value, grad.slice_mut(500..997)).unwrap();
    let after = read(stream, &grad);
    Huber::new(0.1).unwrap().forward_backward(&x[3..500], &t[3..500], Reduction::Sum, &mut want[500..997]).unwrap();
    assert_eq!((&after[..500], &after[500..997], &after[997..]), (&before[..500], &want[500..997], &before[997..]));
    // Too short a buffer, and memory of the host's numbers.
    let refused = on.forward_backward(&a, &target, Reduction::Sum, &mut value, &mut grad);
    assert_eq!(refused, Err(Error::Length { what: "grad_input", expected: 497, got: 1000 }));
    let mut in_place = stream.clone_htod(&x).unwrap();
    on.forward_backward_in_place(&mut in_place, &target, Reduction::Mean, &mut value).unwrap();
    Huber::new(0.1).unwrap().forward_backward(&x, &t, Reduction::Mean, &mut want).unwrap();
    assert_eq!(read(stream, &in_place), want);
}

#[test]
fn the_terms_of_sums_come_beside_their_values() {
    let Some(cuda) = cuda() else { return };
    let stream = cuda.stream();
    let (x, t) = (numbers(10_000, 1), numbers(10_000, 2));
    let (input, target) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&t).unwrap());
    let mut value = stream.alloc_zeros::<f32>(1).unwrap();
    let (mut terms, mut grad) = (stream.alloc_zeros::<f32>(2).unwrap(), stream.alloc_zeros::<f32>(10_000).unwrap());
    let (mut of_cpu, mut want) = ([0.0; 2], vec![0.0; 10_000]);
    let near = |got: f32, want: f32| (got - want).abs() <= 2e-6 * want.abs();

    let sum = 0.7 * Mse::new() + 0.3 * Mae::new();
    let call = sum.on(cuda).call(&input, &target).terms(&mut terms);
    call.forward_backward(Reduction::Mean, &mut value, &mut grad).unwrap();
    let whole = sum.call(&x, &t).terms(&mut of_cpu).forward_backward(Reduction::Mean, &mut want).unwrap();
    assert!(near(read(stream, &value)[0], whole));
    assert!(read(stream, &terms).into_iter().zip(of_cpu).all(|(got, want)| near(got, want)));
    assert!(read(stream, &grad).into_iter().zip(&want).all(|(got, &want)| (got - want).abs() <= 1e-6 * 2e-4));

    let sum = DiceLoss::new().softmax() + 0.5 * CrossEntropy::new();
    let shape = [2, 5, 1000];
    let call = sum.on(cuda).call(&input, &target, shape).terms(&mut terms);
    call.forward_backward(Reduction::Mean, &mut value, &mut grad).unwrap();
    let whole = sum.call(&x, &t, shape).terms(&mut of_cpu).forward(Reduction::Mean).unwrap();
    assert!(near(read(stream, &value)[0], whole));
    assert!(read(stream, &terms).into_iter().zip(of_cpu).all(|(got, want)| near(got, want)));
    let mut one = stream.alloc_zeros::<f32>(1).unwrap();
    let refused = sum.on(cuda).call(&input, &target, shape).terms(&mut one).forward(Reduction::Mean, &mut value);
    assert_eq!(refused, Err(Error::Length { what: "terms", expected: 2, got: 1 }));
}

#[test]
fn foreign_memory_and_streams_are_taken_by_address() {
    let Some(cuda) = cuda() else { return };
    let stream = cuda.stream();
    let (input, target) = (stream.clone_htod(&[0.5f32, 3.0, -4.0]).unwrap(), stream.alloc_zeros::<f32>(3).unwrap());
    let mut outputs = stream.alloc_zeros::<f32>(4).unwrap();
    let address = |x: &fused_loss::cudarc::driver::CudaSlice<f32>| x.device_ptr(stream).0;
    // SAFETY: the buffers live until the stream has been waited for.
    unsafe {
        let foreign = Cuda::from_raw(stream.context(), stream.cu_stream().cast()).unwrap();
        let input = DeviceRef::<f32>::from_raw(address(&input), 3);
        let target = DeviceRef::<f32>::from_raw(address(&target), 3);
        let value = DeviceMut::<f32>::from_raw(address(&outputs), 1);
        let grad = DeviceMut::<f32>::from_raw(address(&outputs) + 4, 3);
        let huber = Huber::new(1.0).unwrap();
        huber.on(&foreign).forward_backward(input, target, Reduction::Sum, value, grad).unwrap();
    }
    assert_eq!(read(stream, &outputs), [6.125, 0.5, 1.0, -1.0]);
    let _ = &mut outputs;
}

#[test]
fn a_class_out_of_range_is_found_by_a_check_and_only_once() {
    let Some(cuda) = cuda() else { return };
    // A handle of its own: others check theirs.
    let cuda = Cuda::new(cuda.stream()).unwrap();
    let stream = cuda.stream();
    let logits = stream.clone_htod(&[1.0f32, 2.0, 3.0, 0.5, 0.25, 0.0]).unwrap();
    let bad = stream.clone_htod(&[1i64, 3]).unwrap();
    let (mut value, mut grad) = (stream.alloc_zeros::<f32>(1).unwrap(), stream.clone_htod(&[9.0f32; 6]).unwrap());
    let on = CrossEntropy::new().on(&cuda);
    on.forward_backward(&logits, &bad, (2, 3), Reduction::Sum, &mut value, &mut grad).unwrap();
    assert_eq!(cuda.check(), Err(Error::ClassIndexOnDevice { row: 1 }));
    assert_eq!(cuda.check(), Ok(()));
    let grad = read(stream, &grad);
    assert!(
        read(stream, &value)[0].is_nan()
            && grad[3..] == [0.0; 3]
            && grad[..3].iter().all(|g| g.is_finite() && *g != 9.0)
    );
    // The third door has the index too.
    let device = Device::cuda(0).unwrap();
    let (logits, bad) = (device.buffer(&[0.5f32; 6]).unwrap(), device.buffer(&[2u8, 7]).unwrap());
    let refused = CrossEntropy::new().on(&device).forward(&logits, &bad, (2, 3), Reduction::Sum);
    let index = Err(Error::ClassIndex { row: 1, index: 7, classes: 3 });
    assert_eq!(refused.map(drop), index);
    let (on, mut rows) = (CrossEntropy::new().on(&device), device.zeros(2).unwrap());
    assert_eq!(on.forward_unreduced(&logits, &bad, (2, 3), &mut rows), index);
    assert_eq!(on.log_probs(&logits, &bad, (2, 3), &mut rows), index);
}

#[test]
fn calls_are_captured_in_a_graph_and_replayed() {
    let Some(cuda) = cuda() else { return };
    let context = cuda.stream().context().clone();
    // Once with events on the buffers, which a capture has to leave alone, and once without.
    let stream = context.new_stream().unwrap();
    let cuda = Cuda::new(&stream).unwrap();
    let n = 5000;
    let mut input = stream.clone_htod(&numbers(n, 3)).unwrap();
    let target = stream.clone_htod(&numbers(n, 4)).unwrap();
    let (mut value, mut grad) = (stream.alloc_zeros::<f32>(2).unwrap(), stream.alloc_zeros::<f32>(n).unwrap());
    let mut call = |input: &_| {
        let (mut first, mut second) = value.split_at_mut(1);
        let (mse, dice) = (Mse::new().on(&cuda), DiceLoss::new().on(&cuda));
        mse.forward_backward(input, &target, Reduction::Mean, &mut first, &mut grad).unwrap();
        dice.forward(input, &target, [5, 10, 100], Reduction::Mean, &mut second).unwrap();
    };
    call(&input);
    stream.synchronize().unwrap();
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    call(&input);
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("something was captured");
    for seed in 5..8 {
        let x = numbers(n, seed);
        stream.memcpy_htod(&x, &mut input).unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        let t = read(&stream, &target);
        let mut want = vec![0.0; n];
        let value_want = Mse::new().forward_backward(&x, &t, Reduction::Mean, &mut want).unwrap();
        let dice = DiceLoss::new().forward(&x, &t, [5, 10, 100], Reduction::Mean).unwrap();
        let got = read(&stream, &value);
        assert!((got[0] - value_want).abs() <= 1e-6 * value_want && (got[1] - dice).abs() <= 1e-6);
        assert_eq!(read(&stream, &grad), want);
    }
}

#[test]
fn threads_share_a_handle_and_streams_have_their_own() {
    let Some(cuda) = cuda() else { return };
    let (x, t) = (numbers(20_000, 9), numbers(20_000, 10));
    let want = BceWithLogits::new().forward(&x, &t, Reduction::Mean).unwrap();
    let of = |cuda: &Cuda| {
        let stream = cuda.stream();
        let (input, target) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&t).unwrap());
        let mut value = stream.alloc_zeros::<f32>(1).unwrap();
        BceWithLogits::new().on(cuda).forward(&input, &target, Reduction::Mean, &mut value).unwrap();
        read(stream, &value)[0]
    };
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let shared: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..8).map(|_| of(cuda)).collect::<Vec<f32>>())).collect();
        let own = (0..2).map(|_| {
            scope.spawn(|| {
                let cuda = Cuda::new(&cuda.stream().context().new_stream().unwrap()).unwrap();
                (0..8).map(|_| of(&cuda)).collect::<Vec<f32>>()
            })
        });
        let own: Vec<_> = own.collect();
        all.extend(shared.into_iter().chain(own).flat_map(|thread| thread.join().unwrap()));
    });
    assert!(all.iter().all(|value| value.to_bits() == all[0].to_bits()), "{all:?}");
    assert!((all[0] - want).abs() <= 1e-6 * want);
}

#[test]
fn a_device_gives_what_the_cpu_gives() {
    if cuda().is_none() {
        return;
    }
    let gpu = Device::cuda(0).unwrap();
    assert!(gpu.is_cuda() && gpu.to_string().starts_with("CUDA ("));
    let run = |device: &Device| -> Result<(Vec<f32>, Vec<f32>)> {
        let (x, t) = (device.buffer(&numbers(600, 11))?, device.buffer(&numbers(600, 12))?);
        let (mut a, mut b, weight) = (device.zeros(600)?, device.zeros(600)?, device.buffer(&numbers(600, 13))?);
        let classes = device.buffer(&[1i32; 200])?;
        let mse = Mse::new().on(device).weight(&weight).grad_output(8.0);
        let ragan = RelativisticAverage::new().on(device);
        let values = vec![
            mse.forward_backward_both(&x, &t, Reduction::WeightedMean, &mut a, &mut b)?,
            mse.accumulate().forward_backward(&x, &t, Reduction::Sum, &mut a)?,
            CrossEntropy::new().on(device).forward(&x, &classes, (200, 3), Reduction::Mean)?,
            DiceLoss::new().on(device).forward_backward(&x, &t, [2, 3, 100], Reduction::Mean, &mut b)?,
            GanLoss::default().on(device).discriminator(&x, &t, Reduction::Mean, &mut a, &mut b)?,
            GradientPenalty::wgan_gp(10.0)?.on(device).forward(&x, (6, 100), Reduction::Mean)?,
            ragan.generator(&x, &t, &mut a, &mut b)?,
            Mae::new().on(device).forward_backward_in_place(&mut a, &t, Reduction::Sum)?,
        ];
        let grads = [a.to_vec()?, b.to_vec()?, x.try_clone()?.to_vec()?];
        // Without a reduction.
        let ce = CrossEntropy::new().on(device);
        let (mut losses, mut rows, weight_of_rows) =
            (device.zeros(600)?, device.zeros(200)?, device.buffer(&numbers(200, 14))?);
        mse.accumulate().forward_backward_unreduced(&x, &t, &weight, &mut losses, &mut b)?;
        ce.forward_backward_unreduced(&x, &classes, (200, 3), &weight_of_rows, &mut rows, &mut a)?;
        let mut unreduced = vec![losses.to_vec()?, rows.to_vec()?, a.to_vec()?, b.to_vec()?];
        Huber::new(0.1)?.on(device).forward_unreduced(&x, &t, &mut losses)?;
        ce.log_probs(&x, &classes, (200, 3), &mut rows)?;
        unreduced.extend([losses.to_vec()?, rows.to_vec()?]);
        let report = Report { entropy: Some(&mut rows), ..Report::default() };
        ce.forward_report(&x, &classes, (200, 3), Reduction::Mean, report)?;
        unreduced.push(rows.to_vec()?);
        let grads = [grads.concat(), unreduced.concat()].concat();
        Ok((values, grads))
    };
    let ((values, grads), (want, want_grads)) = (run(&gpu).unwrap(), run(&Device::cpu()).unwrap());
    for (got, want) in values.iter().zip(&want).chain(grads.iter().zip(&want_grads)) {
        assert!((got - want).abs() <= 2e-6 * want.abs() + 1e-8, "{got} {want}");
    }
    // Nothing, and memory of elsewhere.
    let (empty, host) = (gpu.zeros::<f32>(0).unwrap(), Device::cpu().zeros::<f32>(0).unwrap());
    assert_eq!(Mse::new().on(&gpu).forward(&empty, &empty, Reduction::Sum), Ok(0.0));
    let wrong = Mse::new().on(&gpu).forward(&empty, &host, Reduction::Sum);
    assert_eq!(wrong, Err(Error::WrongDevice { expected: "a GPU", got: "the CPU" }));
    assert!(gpu.zeros::<f32>(usize::MAX / 8).is_err());
}

/// Losses that the user wrote, compiled here by NVRTC, in all verbs against their formula in Rust.
#[test]
fn custom_losses_give_what_their_formula_gives() {
    let Some(cuda) = cuda() else { return };
    if !cases::gpu::nvrtc() {
        return;
    }
    let ours = [cases::custom::expectile(0.8), cases::custom::charbonnier(0.1, 1.5), cases::custom::logistic()];
    for loss in ours {
        all_verbs::<f32>(cuda, loss);
        all_verbs::<half::f16>(cuda, loss);
        all_verbs::<half::bf16>(cuda, loss);
    }
    // An option is an argument of the kernel and no other text.
    let stream = cuda.stream();
    let (input, target) = (stream.clone_htod(&[1.0f32, -1.0]).unwrap(), stream.alloc_zeros::<f32>(2).unwrap());
    let mut value = stream.alloc_zeros::<f32>(1).unwrap();
    for (tau, want) in [(0.5f32, 1.0f32), (0.25, 1.0)] {
        let on = cases::custom::expectile(tau).on(cuda);
        on.forward(&input, &target, Reduction::Sum, &mut value).unwrap();
        assert_eq!(read(stream, &value), [want]);
    }
    // The third door.
    let device = Device::cuda(0).unwrap();
    let (input, target) = (device.buffer(&[1.0f32, -1.0]).unwrap(), device.zeros(2).unwrap());
    let mut grad = device.zeros(2).unwrap();
    let on = cases::custom::expectile(0.75).on(&device);
    assert_eq!(on.forward_backward(&input, &target, Reduction::Sum, &mut grad), Ok(1.0));
    assert_eq!(grad.to_vec(), Ok(vec![0.5, -1.5]));
}

/// Calls a loss in every way on the CPU and the GPU.
fn all_verbs<T: Element + Storable>(cuda: &Cuda, loss: Custom) {
    let stream = cuda.stream();
    // More than one block, and a last pack that is not full.
    let n = 9_002;
    let of = |seed| numbers(n, seed).into_iter().map(T::from_f32).collect::<Vec<T>>();
    let (x, t, weight, upstream) = (of(1), of(2), numbers(n, 3), numbers(n, 4));
    let (input, target) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&t).unwrap());
    let (weight_there, upstream_there) = (stream.clone_htod(&weight).unwrap(), stream.clone_htod(&upstream).unwrap());
    let mut value = stream.alloc_zeros::<f32>(1).unwrap();
    let mut losses = stream.alloc_zeros::<f32>(n).unwrap();
    let (mut grad, mut grad_want, mut losses_want) = (stream.clone_htod(&t).unwrap(), t.clone(), vec![0.0; n]);
    let close = |what: &str, got: &[f32], want: &[f32], bits: f32| {
        let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        for (got, want) in got.iter().zip(want) {
            let bound = 2e-6 * largest + bits * want.abs();
            assert!((got - want).abs() <= bound, "{loss:?}, {}, {what}: {got} instead of {want}", T::NAME);
        }
    };
    let wide = |x: &[T]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    // One rounding of the storage type, and where it adds to what is there another.
    let bits = match T::NAME {
        "float32" => 0.0,
        "float16" => 1.0 / 1024.0,
        _ => 1.0 / 128.0,
    };
    let on = loss.on(cuda);

    on.forward(&input, &target, Reduction::Mean, &mut value).unwrap();
    let want = loss.forward(&x, &t, Reduction::Mean).unwrap();
    close("forward", &read(stream, &value), &[want], 0.0);
    let call = || on.call(&input, &target).weight(&weight_there).grad_output(64.0);
    let here = || loss.call(&x, &t).weight(&weight).grad_output(64.0);

    call().accumulate().forward_backward(Reduction::WeightedMean, &mut value, &mut grad).unwrap();
    let want = here().accumulate().forward_backward(Reduction::WeightedMean, &mut grad_want).unwrap();
    close("accumulated value", &read(stream, &value), &[want], 0.0);
    close("accumulated", &wide(&read(stream, &grad)), &wide(&grad_want), bits);

    on.forward_backward(&input, &target, Reduction::Sum, &mut value, &mut grad).unwrap();
    let want = loss.forward_backward(&x, &t, Reduction::Sum, &mut grad_want).unwrap();
    close("sum", &read(stream, &value), &[want], 0.0);
    close("gradient", &wide(&read(stream, &grad)), &wide(&grad_want), bits);

    call().backward(Reduction::Sum, &mut grad).unwrap();
    here().backward(Reduction::Sum, &mut grad_want).unwrap();
    close("backward", &wide(&read(stream, &grad)), &wide(&grad_want), bits);

    call().forward_unreduced(&mut losses).unwrap();
    here().forward_unreduced(&mut losses_want).unwrap();
    close("values", &read(stream, &losses), &losses_want, 0.0);

    call().forward_backward_unreduced(&upstream_there, &mut losses, &mut grad).unwrap();
    here().forward_backward_unreduced(&upstream, &mut losses_want, &mut grad_want).unwrap();
    close("unreduced values", &read(stream, &losses), &losses_want, 0.0);
    close("unreduced", &wide(&read(stream, &grad)), &wide(&grad_want), bits);

    call().backward_unreduced(&upstream_there, &mut grad).unwrap();
    close("unreduced backward", &wide(&read(stream, &grad)), &wide(&grad_want), bits);

    let (mut there, mut here) = (stream.clone_htod(&x).unwrap(), x.clone());
    on.forward_backward_in_place(&mut there, &target, Reduction::Mean, &mut value).unwrap();
    let want = loss.forward_backward_in_place(&mut here, &t, Reduction::Mean).unwrap();
    close("in place value", &read(stream, &value), &[want], 0.0);
    close("in place", &wide(&read(stream, &there)), &wide(&here), bits);
}

/// A text that does not compile, and none at all: errors, and the GPU is as it was.
#[test]
fn custom_losses_that_do_not_compile_are_errors() {
    let Some(cuda) = cuda() else { return };
    let stream = cuda.stream();
    let (input, target) = (stream.clone_htod(&[1.0f32]).unwrap(), stream.alloc_zeros::<f32>(1).unwrap());
    let mut value = stream.clone_htod(&[7.0f32]).unwrap();
    let plain = Custom::new("of the CPU", [], |x, _, []| (x, 1.0)).unwrap();
    if cases::gpu::nvrtc() {
        let wrong = plain.cuda("value = x;\ngrad = one;");
        let refused = wrong.on(cuda).forward(&input, &target, Reduction::Sum, &mut value).unwrap_err();
        let Error::Compile { loss, log } = &refused else { panic!("{refused}") };
        assert!(loss == "of the CPU" && log.contains("of the CPU(2): error: identifier \"one\" is undefined"), "{log}");
        let refused = plain.on(cuda).forward(&input, &target, Reduction::Sum, &mut value).unwrap_err();
        assert!(matches!(refused, Error::Custom { loss: "of the CPU", .. }), "{refused}");
    }
    assert_eq!(read(stream, &value), [7.0]);
    Mse::new().on(cuda).forward(&input, &target, Reduction::Sum, &mut value).unwrap();
    assert_eq!(read(stream, &value), [1.0]);
}
