//! Every loss with every option, in every storage type: the numbers of the first door, to the last bit.

use burn_tensor::Tensor;
use fused_loss::burn::{OnTensors, TensorCall};
use fused_loss::{Element, Loss, Reduction};

use super::cases::draw::{Dims, Labels, Problem};
use super::cases::job::{Apply, Job, Verb, Weight};
use super::cases::{Case, DrawThird, Family, Third, table};
use super::{gradient, indices, leaf, numbers, tensor};

pub trait Scalar: Element + burn_tensor::Element {}
impl<T: Element + burn_tensor::Element> Scalar for T {}

fn bits<T: Element>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| (x.to_f32() + 0.0).to_bits()).collect()
}

const REDUCTIONS: [Reduction; 4] = [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::SumOver(12.5)];

#[derive(Clone, Copy, Debug)]
enum Weights {
    None,
    PerElement,
    PerSample,
}

/// The losses in one axis, and the dimensions that they had.
fn unreduced<L: Loss>(call: &TensorCall<L>) -> (Tensor<1>, Vec<usize>) {
    fn flat<const D: usize>(x: Tensor<D>) -> (Tensor<1>, Vec<usize>) {
        let dims = x.dims().to_vec();
        (x.flatten(0, D - 1), dims)
    }
    let one = call.clone().forward_unreduced::<1>().map(flat);
    let two = one.or_else(|_| call.clone().forward_unreduced::<2>().map(flat));
    two.or_else(|_| call.clone().forward_unreduced::<3>().map(flat)).expect("losses of at most three axes")
}

struct Trial<'a, T> {
    case: &'a Case,
    problem: &'a Problem<T>,
    turn: usize,
    /// The numbers are those of [`Problem::at_the_edges`].
    at_the_edges: bool,
}

impl<T: Scalar> Trial<'_, T> {
    /// With a shape of `D` axes, of which class indices have `R`.
    fn check<L: Loss, const D: usize, const R: usize>(&self, loss: L, shape: [usize; D]) {
        let name = format!("{} of {} {:?}", self.case.name, <T as Element>::NAME, self.problem.dims);
        let input = leaf(&self.problem.input, shape);
        let mut rows = shape.to_vec();
        rows.remove(1);
        let rows: [usize; R] = rows.try_into().expect("one axis less");
        let dense = match &self.problem.labels {
            Labels::Dense(t) => Some(tensor(t, shape)),
            _ => None,
        };
        let tracks = dense.is_some() && self.case.target_step.is_some();
        let dense = dense.map(|t| if tracks { t.require_grad() } else { t });
        let class_weight = self.problem.class_weight.as_deref().map(|w| tensor(w, [w.len()]));
        // Whether the third tensor has a number for each row.
        let of_rows = matches!(&self.case.third, Some(Third { draw: DrawThird::Label(_), .. }));
        let of = |input: &Tensor<D>, dense: Option<Tensor<D>>| -> TensorCall<L> {
            let call = match (&self.problem.labels, dense) {
                (Labels::Nothing, _) => loss.tensor(input),
                (Labels::I64(t), _) => loss.tensors(input, &indices(t, rows)),
                (Labels::I32(t), _) => loss.tensors(input, &indices(t, rows)),
                (Labels::U32(t), _) => loss.tensors(input, &indices(t, rows)),
                (Labels::U8(t), _) => loss.tensors(input, &indices(t, rows)),
                (Labels::Dense(_), dense) => loss.tensors(input, &dense.expect("dense targets")),
            };
            let call = match (&self.problem.third, of_rows) {
                (Some(third), true) => call.third(&tensor(third, rows)),
                (Some(third), false) => call.third(&tensor(third, shape)),
                (None, _) => call,
            };
            class_weight.iter().fold(call, |call, w| call.class_weight(w))
        };
        let plain = || of(&input, dense.clone());
        let (each, dims) = unreduced(&plain());
        let (losses, n) = (each.dims()[0], self.problem.input.len());
        let samples = (1..=5).rev().find(|s| losses.is_multiple_of(*s)).unwrap_or(1);
        let kind = [Weights::None, Weights::PerElement, Weights::PerSample][self.turn % 3];
        let floats = |n: usize| (0..n).map(|i| 0.25 + (i % 7) as f32 / 4.0).collect::<Vec<_>>();
        let weights = match kind {
            Weights::None => vec![],
            Weights::PerElement => floats(losses),
            Weights::PerSample => floats(samples),
        };
        let call = || match (kind, &dims[..]) {
            (Weights::None, _) => plain(),
            (Weights::PerElement, &[a]) => plain().weight(&tensor(&weights, [a])),
            (Weights::PerElement, &[a, b]) => plain().weight(&tensor(&weights, [a, b])),
            (Weights::PerElement, &[a, b, c]) => plain().weight(&tensor(&weights, [a, b, c])),
            _ => plain().sample_weight(&tensor(&weights, [weights.len()])),
        };
        // What the first door says.
        let run = |grad_output: f32, grad_target: Option<&mut [T]>, verb: Verb<'_, T>| {
            let weight = match kind {
                Weights::None => Weight::None,
                Weights::PerElement => Weight::PerElement(&weights),
                Weights::PerSample => Weight::PerSample(&weights),
            };
            let job = Job {
                input: &self.problem.input,
                target: self.problem.labels.target(),
                shape: self.problem.shape(self.case),
                weight,
                class_weight: self.problem.class_weight.as_deref(),
                grad_output,
                accumulate: false,
                grad_target,
                third: self.problem.third.as_deref(),
                grad_third: None,
                verb,
            };
            self.case.loss.run(job).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let zeros = || vec![T::from_f32(0.0); n];

        let reduction = REDUCTIONS[self.turn % 4];
        let (mut grad, mut grad_target) = (zeros(), zeros());
        let on_target = tracks.then_some(&mut grad_target[..]);
        let want = run(1.0, on_target, Verb::ForwardBackward(reduction, &mut grad));
        let same = |got: f32| assert_eq!(got.to_bits(), want.to_bits(), "{name}");
        let one = |x: &Tensor<1>| numbers::<1, f32>(x)[0];

        let (value, direct) = call().forward_backward::<D>(reduction).expect("a gradient");
        same(value);
        assert_eq!(bits(&numbers::<D, T>(&direct)), bits(&grad), "{name}: forward_backward");
        assert_eq!((direct.dims(), direct.dtype()), (input.dims(), input.dtype()), "{name}");
        if self.at_the_edges {
            // What a graph makes of them is its own affair.
            return;
        }

        // Without a history there is no gradient to compute, and the value is the same.
        let outside = of(&input.clone().inner(), dense.clone().map(|t| t.inner())).forward(reduction).expect("a value");
        assert!(!outside.is_autodiff(), "{name}");

        let value = call().forward(reduction).expect("a value");
        same(one(&value));
        let grads = value.backward();
        let got = |of: &Tensor<D>| numbers::<D, T>(&of.grad(&grads).expect("a gradient"));
        assert_eq!(bits(&got(&input)), bits(&grad), "{name}: backward");
        if let Some(target) = dense.as_ref().filter(|_| tracks) {
            assert_eq!(bits(&got(target)), bits(&grad_target), "{name}: target");
        }

        // From above comes something else than 1: to the kept gradient a factor, to a new one the upstream gradient.
        let mut scaled = zeros();
        run(0.3, None, Verb::Backward(reduction, &mut scaled));
        let kept = gradient::<D, T>(&(call().forward(reduction).expect("a value") * 0.3), &input);
        // Where two terms cancel, as those of Dice may, each is rounded as the largest is.
        let largest = scaled.iter().fold(0f32, |a, g| a.max(Element::to_f32(*g).abs()));
        let relative = if <T as Element>::NAME == "bfloat16" { 1.0 / 128.0 } else { 3e-7 };
        for (kept, want) in kept.iter().zip(&scaled).map(|(a, b)| (Element::to_f32(*a), Element::to_f32(*b))) {
            let near = (kept - want).abs() <= relative * want.abs() + 2e-6 * largest + 1e-38;
            assert!(near || kept.to_bits() == want.to_bits(), "{name}: 0.3 times: {kept} for {want}");
        }
        if <T as Element>::NAME == "float16" {
            assert_eq!(bits(&kept), bits(&scaled), "{name}: f16 is rounded once");
        }

        let mut all = vec![f32::NAN; losses];
        run(1.0, None, Verb::ForwardUnreduced { losses: &mut all });
        let (value, _) = unreduced(&call());
        assert_eq!(bits(&numbers::<1, f32>(&value)), bits(&all), "{name}: unreduced");
        let upstream: Vec<f32> = (0..losses).map(|i| (i % 5) as f32 - 1.5).collect();
        let grad_output = &upstream[..];
        run(1.0, None, Verb::BackwardUnreduced { grad_output, grad: &mut grad });
        let sum = (value * tensor(grad_output, [losses])).sum();
        assert_eq!(bits(&gradient::<D, T>(&sum, &input)), bits(&grad), "{name}: unreduced, backward");
    }
}

impl<T: Scalar> Apply for Trial<'_, T> {
    fn to<L: Loss>(self, loss: L) -> fused_loss::Result<f32> {
        let Dims { outer, classes, inner } = self.problem.dims;
        if inner == 1 {
            self.check::<L, 2, 1>(loss, [outer, classes]);
        } else {
            self.check::<L, 3, 2>(loss, [outer, classes, inner]);
        }
        Ok(0.0)
    }
}

fn all<T: Scalar>(at_the_edges: bool) {
    // Tensors come in pairs here.
    for (c, case) in table().iter().enumerate() {
        let sizes: &[_] = match case.family {
            Family::Elements { .. } => &[(1, 1, 1), (13, 5, 1)],
            Family::Rows { .. } => &[(1, 2, 1), (7, 3, 1), (2, 17, 5)],
            Family::Regions { .. } => &[(2, 3, 16), (1, 2, 33)],
        };
        for (s, &(outer, classes, inner)) in sizes.iter().enumerate() {
            if inner > 1 && case.name.starts_with("gradient_penalty") {
                // With tensors its sample is all that follows the first axis.
                continue;
            }
            let dims = case.fit(Dims::new(outer, classes, inner));
            let problem = Problem::<T>::draw(case, dims, (c * 10 + s) as u64);
            let problem = if at_the_edges { problem.at_the_edges() } else { problem };
            for turn in 0..3 {
                let done = case.loss.apply(Trial { case, problem: &problem, turn: c + s + 5 * turn, at_the_edges });
                assert_eq!(done, Ok(0.0));
            }
        }
    }
}

#[test]
fn every_loss_of_f32_is_that_of_slices() {
    all::<f32>(false);
}

#[test]
fn every_loss_of_f16_is_that_of_slices() {
    all::<half::f16>(false);
}

#[test]
fn every_loss_of_bf16_is_that_of_slices() {
    all::<half::bf16>(false);
}

#[test]
fn numbers_at_the_edges_give_what_they_give_in_slices() {
    all::<f32>(true);
    all::<half::f16>(true);
    all::<half::bf16>(true);
}
