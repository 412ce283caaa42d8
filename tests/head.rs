//! The language-model head against f64 definitions, against the cross-entropy of its logits, and against PyTorch.

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::{Element, Error, Reduction};
use half::{bf16, f16};

mod cases;
#[path = "head/contrastive.rs"]
mod contrastive;
#[path = "head/device.rs"]
mod device;
#[path = "head/golden.rs"]
mod golden;
#[cfg(feature = "cuda")]
#[path = "head/gpu.rs"]
mod gpu;
#[path = "head/problem.rs"]
mod problem;

use problem::{Problem, close};

struct Got<T> {
    value: f32,
    input: Vec<T>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn backward<T: Element>(problem: &Problem<T>, head: &LinearCrossEntropy) -> Got<T> {
    let (tokens, hidden, classes) = problem.shape;
    // Full of what must not stay.
    let mut got = Got {
        value: 0.0,
        input: vec![T::from_f32(f32::NAN); tokens * hidden],
        weight: vec![f32::NAN; classes * hidden],
        bias: vec![f32::NAN; classes],
    };
    let grads =
        LinearGrads { input: Some(&mut got.input[..]), weight: Some(&mut got.weight), bias: Some(&mut got.bias) };
    got.value = problem.call(head).grad_output(4.0).forward_backward(Reduction::Mean, grads).unwrap();
    got
}

/// The least budget that is enough.
fn least<T: Element>(problem: &Problem<T>) -> usize {
    match problem.call(&LinearCrossEntropy::new(problem.loss()).budget(0)).forward(Reduction::Sum) {
        Err(Error::Budget { needed, budget: 0 }) => needed as usize,
        other => panic!("{other:?}"),
    }
}

/// `rounding`: of one rounding to the storage type.
fn check<T: Element>(rounding: f64) {
    for everything in [false, true] {
        for shape in [(1, 1, 1), (7, 5, 3), (20, 16, 33), (33, 40, 130), (64, 3, 17)] {
            let problem = Problem::<T>::new(shape, everything);
            let denominator = problem.denominator();
            let want = problem.answer(4.0 / denominator);
            let total: f64 = want.losses.iter().sum();
            let least = least(&problem);
            for budget in [least, least + 1, 3 * least, 10 * least, 1 << 28] {
                let head = LinearCrossEntropy::new(problem.loss()).budget(budget);
                let got = backward(&problem, &head);
                // Logits are sums in f32, and an error of a logit is one of the loss.
                close("value", &[total / denominator], &[got.value], 2e-6);
                close("grad_input", &want.input, &got.input, 3e-6 + rounding);
                close("grad_weight", &want.weight, &got.weight, 3e-6);
                close("grad_bias", &want.bias, &got.bias, 3e-6);
                let mut losses = vec![f32::NAN; shape.0];
                problem.call(&head).forward_unreduced(&mut losses).unwrap();
                close("losses", &want.losses, &losses, 2e-6);
                let value = problem.call(&head).forward(Reduction::Mean).unwrap();
                assert_eq!(value, got.value, "forward alone");
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

#[test]
fn each_reduction_divides_by_what_cross_entropy_divides_by() {
    let problem = Problem::<f32>::new((20, 4, 5), true);
    let (tokens, hidden, classes) = problem.shape;
    let bias = problem.bias.as_ref().unwrap();
    let logits: Vec<f32> = (0..tokens * classes)
        .map(|i| {
            let (x, w) = (&problem.input[i / classes * hidden..], &problem.weight[i % classes * hidden..]);
            bias[i % classes] + x.iter().zip(w).take(hidden).map(|(x, w)| x * w).sum::<f32>()
        })
        .collect();
    let head = LinearCrossEntropy::new(problem.loss());
    let reductions =
        [Reduction::Mean, Reduction::Sum, Reduction::BatchMean(10), Reduction::WeightedMean, Reduction::SumOver(3.5)];
    for reduction in reductions {
        let got = problem.call(&head).forward(reduction).unwrap();
        let want = problem
            .loss()
            .call(&logits, &problem.target, (tokens, classes))
            .class_weight(problem.class_weight.as_ref().unwrap())
            .weight(problem.token_weight.as_ref().unwrap())
            .forward(reduction)
            .unwrap();
        approx::assert_relative_eq!(got, want, max_relative = 1e-6);
    }
}

#[test]
fn pytorch_gives_the_same() {
    for case in golden::cases("linear_cross_entropy") {
        let problem = case.problem();
        let got = backward(&problem, &LinearCrossEntropy::new(problem.loss()));
        case.check("value", &[got.value], golden::HERE);
        case.check("grad_input", &got.input, golden::HERE);
        case.check("grad_weight", &got.weight, golden::HERE);
        if problem.bias.is_some() {
            case.check("grad_bias", &got.bias, golden::HERE);
        }
    }
}

#[test]
fn gradients_that_are_not_asked_for_change_nothing() {
    let problem = Problem::<bf16>::new((20, 16, 33), true);
    let head = LinearCrossEntropy::new(problem.loss()).budget(3 * least(&problem));
    let all = backward(&problem, &head);
    let call = problem.call(&head).grad_output(4.0);
    let mut input = vec![bf16::NAN; all.input.len()];
    let grads = LinearGrads { input: Some(&mut input[..]), ..LinearGrads::default() };
    assert_eq!(call.forward_backward(Reduction::Mean, grads).unwrap(), all.value);
    assert_eq!(input, all.input);
    let mut weight = vec![f32::NAN; all.weight.len()];
    let grads = LinearGrads { weight: Some(&mut weight), ..LinearGrads::default() };
    call.forward_backward(Reduction::Mean, grads).unwrap();
    assert_eq!(weight, all.weight);
    let mut bias = vec![f32::NAN; all.bias.len()];
    let grads = LinearGrads { bias: Some(&mut bias), ..LinearGrads::default() };
    call.forward_backward(Reduction::Mean, grads).unwrap();
    assert_eq!(bias, all.bias);
}

#[test]
fn accumulation_adds() {
    let problem = Problem::<f32>::new((20, 16, 33), true);
    let head = LinearCrossEntropy::new(problem.loss()).budget(3 * least(&problem));
    let once = backward(&problem, &head);
    let (mut input, mut weight, mut bias) =
        (vec![1.0f32; once.input.len()], vec![2.0; once.weight.len()], vec![3.0; once.bias.len()]);
    let grads = LinearGrads { input: Some(&mut input[..]), weight: Some(&mut weight), bias: Some(&mut bias) };
    problem.call(&head).grad_output(4.0).accumulate().forward_backward(Reduction::Mean, grads).unwrap();
    for (from, once, twice) in [(1.0, &once.input, &input), (2.0, &once.weight, &weight), (3.0, &once.bias, &bias)] {
        for (once, twice) in once.iter().zip(twice) {
            approx::assert_relative_eq!(from + once, *twice, max_relative = 1e-6);
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let problem = Problem::<f32>::new((300, 70, 513), true);
    let head = LinearCrossEntropy::new(problem.loss()).budget(1 << 18);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| backward(&problem, &head))
    };
    let one = with(1);
    for threads in [2, 7] {
        let many = with(threads);
        assert_eq!(one.value, many.value);
        assert!(one.input == many.input && one.weight == many.weight && one.bias == many.bias, "{threads} threads");
    }
}

#[test]
fn ignored_tokens_may_hold_anything() {
    let (mut input, weight) = ([1.0f32, 2.0, f32::NAN, f32::INFINITY, 3.0, 4.0], [0.5f32, -0.5, 0.25, 1.0]);
    let head = LinearCrossEntropy::default();
    let (mut grad_input, mut grad_weight) = ([9.0; 6], [9.0; 4]);
    let grads = LinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: None };
    let value = head.call(&input, &weight, &[1u8, 2, 0], (3, 2, 2));
    assert_eq!(
        value.forward(Reduction::Mean),
        Err(Error::ClassIndex { row: 1, index: 2, classes: 2 }),
        "that is no class"
    );
    let value = head.call(&input, &weight, &[1i64, -100, 0], (3, 2, 2)).forward_backward(Reduction::Mean, grads);
    assert!(value.unwrap().is_finite() && grad_weight.iter().all(|g| g.is_finite()));
    assert_eq!(grad_input[2..4], [0.0; 2]);
    // NaN elsewhere is not swallowed.
    input[0] = f32::NAN;
    assert!(head.call(&input, &weight, &[1i64, -100, 0], (3, 2, 2)).forward(Reduction::Mean).unwrap().is_nan());
}

#[test]
fn nothing_to_count_is_a_mean_of_nothing() {
    let head = LinearCrossEntropy::default();
    for (tokens, target) in [(0, &[][..]), (2, &[-100i64, -100][..])] {
        let (input, weight) = (vec![1.0f32; 2 * tokens], [1.0f32; 6]);
        let (mut grad_input, mut grad_weight, mut grad_bias) = (vec![9.0; 2 * tokens], [9.0; 6], [9.0; 3]);
        let grads = LinearGrads {
            input: Some(&mut grad_input[..]),
            weight: Some(&mut grad_weight),
            bias: Some(&mut grad_bias),
        };
        let call = head.call(&input, &weight, target, (tokens, 2, 3));
        assert!(call.forward_backward(Reduction::Mean, grads).unwrap().is_nan());
        assert_eq!(call.forward(Reduction::Sum), Ok(0.0));
        assert!(grad_input.iter().all(|&g| g == 0.0));
        assert_eq!((grad_weight, grad_bias), ([0.0; 6], [0.0; 3]));
    }
    // Without hidden numbers the logits are the bias.
    let call = head.call(&[], &[], &[0i64], (1, 0, 2)).bias(&[1.0f32, 1.0]);
    approx::assert_relative_eq!(call.forward(Reduction::Mean).unwrap(), 2f32.ln());
    approx::assert_relative_eq!(
        head.call(&[0.0f32; 0], &[], &[0i64], (1, 0, 2)).forward(Reduction::Mean).unwrap(),
        2f32.ln()
    );
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let head = LinearCrossEntropy::default();
    let (input, weight, target) = ([0.0f32; 6], [0.0f32; 8], [0i64, 1, 2]);
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    let sum = Reduction::Sum;
    let shape = (3, 2, 4);
    let call = head.call(&input, &weight, &target, shape);
    assert_eq!(head.call(&input[1..], &weight, &target, shape).forward(sum), length("input", 6, 5));
    assert_eq!(head.call(&input, &weight[1..], &target, shape).forward(sum), length("weight", 8, 7));
    assert_eq!(head.call(&input, &weight, &target[1..], shape).forward(sum), length("target", 3, 2));
    assert_eq!(call.bias(&[0.0; 3]).forward(sum), length("bias", 4, 3));
    assert_eq!(call.class_weight(&[0.0; 3]).forward(sum), length("class_weight", 4, 3));
    assert_eq!(call.token_weight(&[0.0; 4]).forward(sum), length("token_weight", 3, 4));
    assert_eq!(call.forward_unreduced(&mut [0.0; 4]), Err(Error::Length { what: "losses", expected: 3, got: 4 }));
    let (mut grad_input, mut grad_weight, mut grad_bias) = ([9.0; 6], [9.0; 7], [9.0; 5]);
    let grads = LinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: None };
    assert_eq!(call.forward_backward(sum, grads), length("grad_weight", 8, 7));
    let grads = LinearGrads { input: Some(&mut grad_input), weight: None, bias: Some(&mut grad_bias) };
    assert_eq!(call.forward_backward(sum, grads), length("grad_bias", 4, 5));
    let grads = LinearGrads { input: Some(&mut grad_input[..5]), ..LinearGrads::default() };
    assert_eq!(call.forward_backward(sum, grads), length("grad_input", 6, 5));
    assert_eq!((grad_input, grad_weight, grad_bias), ([9.0; 6], [9.0; 7], [9.0; 5]));
    assert_eq!(
        head.call(&input, &weight, &[0.0f32; 3], shape).forward(sum),
        Err(Error::Unsupported { loss: "linear cross-entropy", what: "a target of anything but class indices" })
    );
    assert_eq!(head.call::<f32>(&[], &[], &target, (3, usize::MAX, 4)).forward(sum), Err(Error::ShapeOverflow));
    let nan = Reduction::SumOver(f64::NAN);
    assert!(matches!(call.forward(nan), Err(Error::Option { name: "SumOver", .. })));
    // One row: four logits, two numbers of input and as many of its gradient, and what goes with a token.
    let needed = 4 * 4 + 2 * 2 * 4 + 24;
    let with = |budget| head.budget(budget).call(&input, &weight, &target, shape).forward(sum);
    assert_eq!(with(needed - 1), Err(Error::Budget { needed: needed as u128, budget: needed - 1 }));
    assert!(with(needed).is_ok());
}
