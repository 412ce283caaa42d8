//! The head on a GPU, against the definition, and against the CPU.

use fused_loss::head::{CudaLinearCall, CudaLinearGrads, LinearCrossEntropy, LinearGrads};
use fused_loss::{Cuda, DeviceMut, Element, Error, Reduction, Result, Target};
use half::{bf16, f16};

use super::cases::gpu::{Copied, Targets, cuda};
use super::golden;
use super::problem::{Problem, close};
use fused_loss::cudarc::driver::{DeviceRepr, ValidAsZeroBits, sys};

/// A problem's buffers on the GPU.
struct Buffers<T: Element> {
    input: Copied<T>,
    weight: Copied<T>,
    bias: Option<Copied<T>>,
    target: Targets<T>,
    class_weight: Option<Copied<f32>>,
    token_weight: Option<Copied<f32>>,
}

trait Number: Element + DeviceRepr + ValidAsZeroBits + Default {}
impl<T: Element + DeviceRepr + ValidAsZeroBits + Default> Number for T {}

impl<T: Number> Buffers<T> {
    fn new(cuda: &Cuda, problem: &Problem<T>) -> Self {
        let of = |x: &Option<Vec<f32>>| x.as_ref().map(|x| Copied::new(cuda, x));
        Buffers {
            input: Copied::new(cuda, &problem.input),
            weight: Copied::new(cuda, &problem.weight),
            bias: problem.bias.as_ref().map(|b| Copied::new(cuda, b)),
            target: Targets::new(cuda, Target::I64(&problem.target)),
            class_weight: of(&problem.class_weight),
            token_weight: of(&problem.token_weight),
        }
    }

    fn call<'a>(
        &'a self,
        cuda: &'a Cuda,
        head: &LinearCrossEntropy,
        shape: (usize, usize, usize),
    ) -> CudaLinearCall<'a, T> {
        let mut call = head.on(cuda).call(self.input.get(), self.weight.get(), self.target.get(), shape);
        if let Some(bias) = &self.bias {
            call = call.bias(bias.get());
        }
        if let Some(weight) = &self.class_weight {
            call = call.class_weight(weight.get());
        }
        if let Some(weight) = &self.token_weight {
            call = call.token_weight(weight.get());
        }
        call
    }
}

/// Gradients on the GPU, full of what must not stay.
struct Grads<T: Element> {
    value: Copied<f32>,
    input: Copied<T>,
    weight: Copied<f32>,
    bias: Copied<f32>,
}

/// What came of a call.
#[derive(Debug, PartialEq)]
struct Got<T> {
    value: f32,
    input: Vec<T>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl<T: Number> Grads<T> {
    fn new(cuda: &Cuda, (tokens, hidden, classes): (usize, usize, usize), full_of: f32) -> Self {
        Grads {
            value: Copied::new(cuda, &[f32::NAN]),
            input: Copied::new(cuda, &vec![T::from_f32(full_of); tokens * hidden]),
            weight: Copied::new(cuda, &vec![full_of; classes * hidden]),
            bias: Copied::new(cuda, &vec![full_of; classes]),
        }
    }

    fn all(&mut self) -> (DeviceMut<'_, f32>, CudaLinearGrads<'_, T>) {
        let grads = CudaLinearGrads {
            input: Some(self.input.get_mut()),
            weight: Some(self.weight.get_mut()),
            bias: Some(self.bias.get_mut()),
        };
        (self.value.get_mut(), grads)
    }

    fn back(&self, cuda: &Cuda, (tokens, hidden, classes): (usize, usize, usize)) -> Got<T> {
        let mut got = Got {
            value: 0.0,
            input: vec![T::default(); tokens * hidden],
            weight: vec![0.0; classes * hidden],
            bias: vec![0.0; classes],
        };
        let mut value = [0.0];
        self.value.back(cuda, &mut value);
        got.value = value[0];
        self.input.back(cuda, &mut got.input);
        self.weight.back(cuda, &mut got.weight);
        self.bias.back(cuda, &mut got.bias);
        got
    }
}

/// A mean with all gradients.
fn backward<T: Number>(cuda: &Cuda, problem: &Problem<T>, head: &LinearCrossEntropy) -> Got<T> {
    let buffers = Buffers::new(cuda, problem);
    let mut grads = Grads::new(cuda, problem.shape, f32::NAN);
    let (value, all) = grads.all();
    buffers.call(cuda, head, problem.shape).grad_output(4.0).forward_backward(Reduction::Mean, value, all).unwrap();
    cuda.check().unwrap();
    grads.back(cuda, problem.shape)
}

fn head<T: Element>(problem: &Problem<T>, budget: usize) -> LinearCrossEntropy {
    LinearCrossEntropy::new(problem.loss()).budget(budget)
}

/// The least budget that is enough.
fn least<T: Number>(cuda: &Cuda, problem: &Problem<T>) -> usize {
    let buffers = Buffers::new(cuda, problem);
    let mut value = Copied::new(cuda, &[0.0]);
    let call = buffers.call(cuda, &head(problem, 0), problem.shape).forward(Reduction::Sum, value.get_mut());
    match call {
        Err(Error::Budget { needed, budget: 0 }) => needed as usize,
        other => panic!("{other:?}"),
    }
}

/// `rounding`: of one rounding to the storage type. Gradients of logits are rounded to it before they are multiplied, and sums of them
/// are no better than their terms, which are larger than they are: hence twice.
fn check<T: Number>(rounding: f64) {
    let Some(cuda) = cuda() else { return };
    for everything in [false, true] {
        for shape in [(1, 1, 1), (7, 5, 3), (20, 16, 33), (40, 3, 17), (9, 8, 1100)] {
            let problem = Problem::<T>::new(shape, everything);
            let denominator = problem.denominator();
            let want = problem.answer(4.0 / denominator);
            let total: f64 = want.losses.iter().sum();
            let least = least(cuda, &problem);
            for budget in [least, least + 3000, 1 << 24] {
                let head = head(&problem, budget);
                let got = backward(cuda, &problem, &head);
                close("value", &[total / denominator], &[got.value], 2e-6);
                close("grad_input", &want.input, &got.input, 3e-6 + 2.0 * rounding);
                close("grad_weight", &want.weight, &got.weight, 3e-6 + 2.0 * rounding);
                close("grad_bias", &want.bias, &got.bias, 3e-6 + 2.0 * rounding);
                let buffers = Buffers::new(cuda, &problem);
                let mut losses = Copied::new(cuda, &vec![f32::NAN; shape.0]);
                buffers.call(cuda, &head, shape).forward_unreduced(losses.get_mut()).unwrap();
                let mut read = vec![0.0; shape.0];
                losses.back(cuda, &mut read);
                close("losses", &want.losses, &read, 2e-6);
                let mut value = Copied::new(cuda, &[f32::NAN]);
                buffers.call(cuda, &head, shape).forward(Reduction::Mean, value.get_mut()).unwrap();
                let mut read = [0.0];
                value.back(cuda, &mut read);
                assert_eq!(read[0], got.value, "forward alone");
            }
        }
    }
}

#[test]
fn f32_is_the_definition() {
    check::<f32>(0.0);
}

#[test]
fn f16_is_the_definition() {
    check::<f16>(f64::powi(2.0, -11));
}

#[test]
fn bf16_is_the_definition() {
    check::<bf16>(f64::powi(2.0, -8));
}

/// More classes than a block keeps, more tokens than a chunk; and the same bits again.
#[test]
fn pytorch_gives_the_same_on_a_gpu() {
    let Some(cuda) = cuda() else { return };
    for case in golden::cases("linear_cross_entropy") {
        let problem = case.problem();
        let got = backward(cuda, &problem, &head(&problem, 1 << 20));
        case.check("value", &[got.value], golden::ON_A_GPU);
        case.check("grad_input", &got.input, golden::ON_A_GPU);
        case.check("grad_weight", &got.weight, golden::ON_A_GPU);
        if problem.bias.is_some() {
            case.check("grad_bias", &got.bias, golden::ON_A_GPU);
        }
    }
}

#[test]
fn large_heads_are_those_of_the_cpu() {
    let Some(cuda) = cuda() else { return };
    let shape = (150, 24, 3001);
    let problem = Problem::<f32>::new(shape, true);
    let of_gpu = backward(cuda, &problem, &head(&problem, 5 << 20));
    assert_eq!(of_gpu, backward(cuda, &problem, &head(&problem, 5 << 20)), "not the same bits");
    let mut got = Got { value: 0.0, input: vec![0.0; 150 * 24], weight: vec![0.0; 3001 * 24], bias: vec![0.0; 3001] };
    let grads =
        LinearGrads { input: Some(&mut got.input[..]), weight: Some(&mut got.weight), bias: Some(&mut got.bias) };
    let call = problem.call(&head(&problem, 5 << 20)).grad_output(4.0);
    got.value = call.forward_backward(Reduction::Mean, grads).unwrap();
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    close("value", &[got.value.into()], &[of_gpu.value], 2e-6);
    close("grad_input", &wide(&got.input), &of_gpu.input, 5e-6);
    close("grad_weight", &wide(&got.weight), &of_gpu.weight, 5e-6);
    close("grad_bias", &wide(&got.bias), &of_gpu.bias, 5e-6);
}

/// Reductions, gradients that are added, numbers on the device, fewer tokens than there are.
#[test]
fn options_of_a_call_do_what_they_do_on_the_cpu() {
    let Some(cuda) = cuda() else { return };
    let shape = (20, 16, 33);
    let problem = Problem::<f32>::new(shape, true);
    let (head, buffers) = (head(&problem, 1 << 20), Buffers::new(cuda, &problem));
    let call = || buffers.call(cuda, &head, shape);
    let valued = |run: &dyn Fn(DeviceMut<'_, f32>) -> Result<()>| {
        let mut value = Copied::new(cuda, &[f32::NAN]);
        run(value.get_mut()).unwrap();
        cuda.check().unwrap();
        let mut read = [0.0];
        value.back(cuda, &mut read);
        f64::from(read[0])
    };
    for reduction in
        [Reduction::Mean, Reduction::Sum, Reduction::BatchMean(10), Reduction::WeightedMean, Reduction::SumOver(3.5)]
    {
        let want = f64::from(problem.call(&head).forward(reduction).unwrap());
        let got = valued(&|value| call().forward(reduction, value));
        assert!((got - want).abs() <= 2e-6 * want, "{reduction:?}: {got}, on the CPU {want}");
    }
    let two = Copied::new(cuda, &[2.0f32]);
    let sum = f64::from(problem.call(&head).forward(Reduction::Sum).unwrap());
    let got = valued(&|value| call().denominator(two.get()).forward(Reduction::Sum, value));
    assert!((got - sum / 2.0).abs() <= 2e-6 * sum);

    let once = backward(cuda, &problem, &head);
    // Scaled and divided by numbers on the device, added to ones.
    let counted = problem.target.iter().filter(|&&t| t != -100).count();
    let over = Copied::new(cuda, &[problem.denominator() as f32 / 2.0]);
    let mut grads = Grads::<f32>::new(cuda, shape, 1.0);
    let (value, all) = grads.all();
    let call = call().grad_output(two.get()).denominator(over.get()).accumulate().counted(counted);
    call.forward_backward(Reduction::Sum, value, all).unwrap();
    cuda.check().unwrap();
    let twice = grads.back(cuda, shape);
    for (once, twice) in [(&once.input, &twice.input), (&once.weight, &twice.weight), (&once.bias, &twice.bias)] {
        for (once, twice) in once.iter().zip(twice) {
            approx::assert_relative_eq!(1.0 + once, *twice, max_relative = 1e-6);
        }
    }
}

#[test]
fn gradients_that_are_not_asked_for_change_nothing() {
    let Some(cuda) = cuda() else { return };
    let problem = Problem::<bf16>::new((20, 16, 33), true);
    let (head, buffers) = (head(&problem, 1 << 20), Buffers::new(cuda, &problem));
    let all = backward(cuda, &problem, &head);
    for which in 0..3 {
        let mut grads = Grads::<bf16>::new(cuda, problem.shape, 7.0);
        let (value, mut some) = grads.all();
        if which != 0 {
            some.input = None;
        }
        if which != 1 {
            some.weight = None;
        }
        if which != 2 {
            some.bias = None;
        }
        let call = buffers.call(cuda, &head, problem.shape).grad_output(4.0);
        call.forward_backward(Reduction::Mean, value, some).unwrap();
        let got = grads.back(cuda, problem.shape);
        assert_eq!(got.value, all.value);
        assert!(if which == 0 { got.input == all.input } else { got.input.iter().all(|g| g.to_f32() == 7.0) });
        assert!(if which == 1 { got.weight == all.weight } else { got.weight.iter().all(|&g| g == 7.0) });
        assert!(if which == 2 { got.bias == all.bias } else { got.bias.iter().all(|&g| g == 7.0) });
    }
}

#[test]
fn ignored_tokens_may_hold_anything_and_classes_that_are_none_are_reported() {
    let Some(cuda) = cuda() else { return };
    let mut problem = Problem::<f32>::new((20, 16, 33), false);
    let (sound, sixteen) = (backward(cuda, &problem, &head(&problem, 1 << 20)), |i: usize| i * 16..(i + 1) * 16);
    for i in (1..20).step_by(3) {
        problem.input[sixteen(i)].fill(f32::NAN);
    }
    let got = backward(cuda, &problem, &head(&problem, 1 << 20));
    assert_eq!(got, sound);
    assert!((1..20).step_by(3).all(|i| got.input[sixteen(i)].iter().all(|g| g.to_bits() == 0)));

    // The first of two strays, by its number among all tokens.
    (problem.target[5], problem.target[9]) = (33, -1);
    let (head, buffers) = (head(&problem, 1 << 20), Buffers::new(cuda, &problem));
    let mut grads = Grads::<f32>::new(cuda, problem.shape, f32::NAN);
    let (value, all) = grads.all();
    buffers.call(cuda, &head, problem.shape).forward_backward(Reduction::Sum, value, all).unwrap();
    assert_eq!(cuda.check(), Err(Error::ClassIndexOnDevice { row: 5 }));
    let got = grads.back(cuda, problem.shape);
    assert!(got.value.is_nan() && got.weight.iter().chain(&got.input).all(|g| g.is_finite()));
    assert!([5, 9].iter().all(|&i| got.input[sixteen(i)].iter().all(|&g| g == 0.0)));
    let mut losses = Copied::new(cuda, &[0.0f32; 20]);
    buffers.call(cuda, &head, problem.shape).forward_unreduced(losses.get_mut()).unwrap();
    assert!(cuda.check().is_err());
    let mut read = [0.0; 20];
    losses.back(cuda, &mut read);
    assert!((0..20).all(|i| if [5, 9].contains(&i) { read[i].is_nan() } else { read[i].is_finite() }));

    // Fewer than count: of 0, 2, 3, 5, 6, ... the fifth is one too many.
    let problem = Problem::<f32>::new((20, 16, 33), false);
    let (buffers, mut value) = (Buffers::new(cuda, &problem), Copied::new(cuda, &[0.0f32]));
    let call = buffers.call(cuda, &head, problem.shape).counted(4);
    call.forward(Reduction::Mean, value.get_mut()).unwrap();
    assert_eq!(cuda.check(), Err(Error::TooManyOnDevice { token: 6 }));
    let mut read = [0.0];
    value.back(cuda, &mut read);
    assert!(read[0].is_nan());
}

#[test]
fn nothing_to_count_is_a_mean_of_nothing() {
    let Some(cuda) = cuda() else { return };
    for tokens in [0, 2] {
        let mut problem = Problem::<f16>::new((tokens, 2, 3), false);
        problem.target.fill(-100);
        let got = backward(cuda, &problem, &head(&problem, 1 << 20));
        assert!(got.value.is_nan());
        assert!(got.input.iter().all(|g| g.to_f32() == 0.0) && got.weight.iter().chain(&got.bias).all(|&g| g == 0.0));
    }
}

/// Class weights and loss scales that would overflow or vanish if gradients of logits were f16 as they are.
#[test]
fn f16_gradients_are_not_lost() {
    let Some(cuda) = cuda() else { return };
    let shape = (33, 40, 130);
    for weight in [1e-6f32, 3e4] {
        let mut problem = Problem::<f16>::new(shape, true);
        problem.class_weight = Some(vec![weight; 130]);
        let want = problem.answer(4.0 / problem.denominator());
        let got = backward(cuda, &problem, &head(&problem, 1 << 20));
        close("grad_weight", &want.weight, &got.weight, 1e-3);
        close("grad_bias", &want.bias, &got.bias, 1e-3);
    }
}

#[test]
fn a_captured_head_gives_the_same_when_it_is_replayed() {
    let Some(shared) = cuda() else { return };
    let stream = shared.stream().context().new_stream().unwrap();
    let cuda = Cuda::new(&stream).unwrap();
    let shape = (20, 16, 33);
    let problem = Problem::<bf16>::new(shape, true);
    let head = head(&problem, 1 << 20);
    let want = backward(&cuda, &problem, &head);
    let buffers = Buffers::new(&cuda, &problem);
    let mut grads = Grads::new(&cuda, shape, f32::NAN);
    stream.synchronize().unwrap();
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let (value, all) = grads.all();
    let call = buffers.call(&cuda, &head, shape).grad_output(4.0).forward_backward(Reduction::Mean, value, all);
    // More than there is.
    let large = Problem::<bf16>::new((64, 3, 17), true);
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("something was captured");
    call.unwrap();
    assert!(grads.back(&cuda, shape).value.is_nan(), "nothing has run yet");
    // The graph keeps its memory, whatever comes after.
    backward(&cuda, &large, &head.budget(8 << 20));
    for _ in 0..2 {
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        assert_eq!(grads.back(&cuda, shape), want);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(cuda) = cuda() else { return };
    let shape = (3, 2, 4);
    let buffers = Buffers::new(cuda, &Problem::<f32>::new(shape, false));
    let of = LinearCrossEntropy::default();
    let (mut value, mut two) = (Copied::new(cuda, &[0.0f32]), Copied::new(cuda, &[0.0f32; 2]));
    let short = Copied::new(cuda, &[0.0f32; 3]);
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    let sum = Reduction::Sum;
    let call = || buffers.call(cuda, &of, shape);
    assert_eq!(call().bias(short.get()).forward(sum, value.get_mut()), length("bias", 4, 3));
    assert_eq!(call().class_weight(short.get()).forward(sum, value.get_mut()), length("class_weight", 4, 3));
    let some = CudaLinearGrads { bias: Some(two.get_mut()), ..CudaLinearGrads::default() };
    assert_eq!(call().forward_backward(sum, value.get_mut(), some), length("grad_bias", 4, 2));
    assert_eq!(buffers.call(cuda, &of, (3, 2, 5)).forward(sum, value.get_mut()), length("weight", 10, 8));
    assert_eq!(call().forward(sum, two.get_mut()), length("value", 1, 2));
    assert!(call().denominator(value.get()).forward(Reduction::Mean, two.get_mut()).is_err());
    let dense = of.on(cuda).call(buffers.input.get(), buffers.weight.get(), buffers.input.get(), shape);
    assert!(matches!(dense.forward(sum, value.get_mut()), Err(Error::Unsupported { .. })));
    assert_eq!(call().denominator(buffers.input.get()).forward(sum, value.get_mut()), length("denominator", 1, 6));
}

/// Where there is no cuBLAS that is an error.
#[test]
fn cublas_is_looked_for_when_it_is_needed() {
    let Some(cuda) = cuda() else { return };
    let problem = Problem::<f32>::new((3, 2, 4), false);
    let (buffers, mut value) = (Buffers::new(cuda, &problem), Copied::new(cuda, &[0.0f32]));
    let got =
        buffers.call(cuda, &LinearCrossEntropy::default(), problem.shape).forward(Reduction::Sum, value.get_mut());
    let names = ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"];
    // SAFETY: it is cuBLAS, which the call has opened if it is there.
    let there = names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    assert_eq!(got, if there { Ok(()) } else { Err(Error::NoCublas) });
}
