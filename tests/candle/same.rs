//! Every loss with every option, in every storage type: the numbers of the first door, to the last bit.

use candle_core::{Tensor, WithDType};
use fused_loss::candle::{OnTensors, TensorCall};
use fused_loss::{Element, Loss, Reduction};

use super::cases::draw::{Dims, Labels, Problem};
use super::cases::job::{Apply, Job, Verb, Weight};
use super::cases::{Case, DrawThird, Family, Third, table};
use super::{gradient, numbers, tensor, var};

pub trait Scalar: Element + WithDType {}
impl<T: Element + WithDType> Scalar for T {}

/// `-0.0` is `0.0` to candle, which adds every gradient to zeros.
fn bits<T: Element>(x: &[T]) -> Vec<u32> {
    x.iter().map(|x| (x.to_f32() + 0.0).to_bits()).collect()
}

/// The same of what has come through candle's graph, which adds it to zeros: where the CPU adds bf16 (AVX512-BF16), that makes zeros of
/// subnormal numbers.
fn bits_of_graph<T: Element>(x: &[T]) -> Vec<u32> {
    let subnormal = |bits: u32| T::NAME == "bfloat16" && bits & 0x7f80_0000 == 0;
    bits(x).into_iter().map(|bits| if subnormal(bits) { 0 } else { bits }).collect()
}

const REDUCTIONS: [Reduction; 4] = [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::SumOver(12.5)];

#[derive(Clone, Copy, Debug)]
enum Weights {
    None,
    PerElement,
    PerSample,
}

struct Trial<'a, T> {
    case: &'a Case,
    problem: &'a Problem<T>,
    turn: usize,
    /// The numbers are those of [`Problem::at_the_edges`].
    at_the_edges: bool,
}

impl<T: Scalar> Trial<'_, T> {
    fn shape(&self) -> Vec<usize> {
        let Dims { outer, classes, inner } = self.problem.dims;
        if inner == 1 { vec![outer, classes] } else { vec![outer, classes, inner] }
    }

    /// Whether the third tensor has a number for each row.
    fn of_rows(&self) -> bool {
        matches!(&self.case.third, Some(Third { draw: DrawThird::Label(_), .. }))
    }

    fn target(&self) -> Option<Tensor> {
        let mut rows = self.shape();
        rows.remove(1);
        Some(match &self.problem.labels {
            Labels::Nothing => return None,
            Labels::Dense(t) => tensor(t, self.shape()),
            Labels::I64(t) => tensor(t, rows),
            Labels::I32(t) => tensor(t, rows),
            Labels::U32(t) => tensor(t, rows),
            Labels::U8(t) => tensor(t, rows),
        })
    }

    fn check<L: Loss>(&self, loss: L) -> candle_core::Result<()> {
        let name = format!("{} of {} {:?}", self.case.name, T::NAME, self.problem.dims);
        let input = var(&self.problem.input, self.shape());
        let target = self.target();
        let tracked = target.clone().filter(|_| self.case.target_step.is_some());
        let tracked = tracked.as_ref().map(candle_core::Var::from_tensor).transpose()?;
        let target = tracked.as_ref().map(|t| t.as_tensor().clone()).or(target);
        let class_weight = self.problem.class_weight.as_deref().map(|w| tensor(w, w.len()));
        let third = self.problem.third.as_deref().map(|third| {
            let mut dims = self.shape();
            if self.of_rows() {
                dims.remove(1);
            }
            tensor(third, dims)
        });
        let plain = || -> TensorCall<L> {
            let call = match &target {
                Some(target) => loss.tensors(&input, target),
                None => loss.tensor(&input),
            };
            let call = third.iter().fold(call, |call, third| call.third(third));
            class_weight.iter().fold(call, |call, w| call.class_weight(w))
        };
        let unreduced = plain().forward_unreduced()?;
        let (losses, n) = (unreduced.elem_count(), self.problem.input.len());
        let samples = (1..=5).rev().find(|s| losses.is_multiple_of(*s)).unwrap_or(1);
        let kind = [Weights::None, Weights::PerElement, Weights::PerSample][self.turn % 3];
        let floats = |n: usize| (0..n).map(|i| 0.25 + (i % 7) as f32 / 4.0).collect::<Vec<_>>();
        let weights = match kind {
            Weights::None => vec![],
            Weights::PerElement => floats(losses),
            Weights::PerSample => floats(if losses == 0 { 0 } else { samples }),
        };
        let call = || match kind {
            Weights::None => plain(),
            Weights::PerElement => plain().weight(&tensor(&weights, unreduced.shape())),
            Weights::PerSample => plain().sample_weight(&tensor(&weights, weights.len())),
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
        let on_target = tracked.is_some().then_some(&mut grad_target[..]);
        let want = run(1.0, on_target, Verb::ForwardBackward(reduction, &mut grad));
        let same = |got: &Tensor| got.to_scalar::<f32>().map(|got| assert_eq!(got.to_bits(), want.to_bits(), "{name}"));

        let (value, direct) = call().forward_backward(reduction)?;
        same(&value)?;
        assert_eq!(value.dims(), [0usize; 0], "{name}");
        assert_eq!(bits(&numbers::<T>(&direct)), bits(&grad), "{name}: forward_backward");
        assert_eq!((direct.shape(), direct.dtype()), (input.shape(), input.dtype()), "{name}");
        if self.at_the_edges {
            // What a graph makes of them is its own affair.
            return Ok(());
        }

        // Without a history there is no gradient to compute, and the value is the same.
        let alone = match &target {
            Some(target) => loss.tensors(&input.detach(), &target.detach()),
            None => loss.tensor(&input.detach()),
        };
        let alone = third.iter().fold(alone, |call, third| call.third(third));
        assert!(!alone.forward(reduction)?.track_op(), "{name}");

        let value = call().forward(reduction)?;
        same(&value)?;
        for time in ["first", "second"] {
            let got = gradient::<T>(&value, &input)?;
            assert_eq!(bits_of_graph(&got), bits_of_graph(&grad), "{name}: {time} backward");
            if let Some(target) = &tracked {
                let got = gradient::<T>(&value, target)?;
                assert_eq!(bits_of_graph(&got), bits_of_graph(&grad_target), "{name}: {time}, target");
            }
        }

        // From above comes something else than 1: to the kept gradient a factor, to a new one the upstream gradient.
        let mut scaled = zeros();
        run(0.3, None, Verb::Backward(reduction, &mut scaled));
        let value = (call().forward(reduction)? * 0.3)?;
        let (kept, again) = (gradient::<T>(&value, &input)?, gradient::<T>(&value, &input)?);
        assert_eq!(bits_of_graph(&again), bits_of_graph(&scaled), "{name}: second backward of 0.3");
        // Where two terms cancel, as those of Dice may, each is rounded as the largest is.
        let largest = scaled.iter().fold(0f32, |a, g| a.max(g.to_f32().abs()));
        let relative = if T::NAME == "bfloat16" { 1.0 / 128.0 } else { 3e-7 };
        for (kept, want) in kept.iter().zip(&scaled).map(|(a, b)| (a.to_f32(), b.to_f32())) {
            let near = (kept - want).abs() <= relative * want.abs() + 2e-6 * largest + 1.2e-38;
            assert!(near || kept.to_bits() == want.to_bits(), "{name}: 0.3 times: {kept} for {want}");
        }
        if T::NAME == "float16" {
            assert_eq!(bits(&kept), bits(&scaled), "{name}: f16 is rounded once");
        }

        let mut all = vec![f32::NAN; losses];
        run(1.0, None, Verb::ForwardUnreduced { losses: &mut all });
        let value = call().forward_unreduced()?;
        assert_eq!(bits(&numbers::<f32>(&value)), bits(&all), "{name}: unreduced");
        let upstream: Vec<f32> = (0..losses).map(|i| (i % 5) as f32 - 1.5).collect();
        let grad_output = &upstream[..];
        run(1.0, None, Verb::BackwardUnreduced { grad_output, grad: &mut grad });
        let sum = (value * tensor(grad_output, unreduced.shape()))?.sum_all()?;
        for time in ["first", "second"] {
            let got = gradient::<T>(&sum, &input)?;
            assert_eq!(bits_of_graph(&got), bits_of_graph(&grad), "{name}: unreduced, {time} backward");
        }
        Ok(())
    }
}

impl<T: Scalar> Apply for Trial<'_, T> {
    fn to<L: Loss>(self, loss: L) -> fused_loss::Result<f32> {
        self.check(loss).unwrap_or_else(|e| panic!("{} of {}: {e}", self.case.name, T::NAME));
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
                // With tensors its sample is all that follows the first axis: see `views`.
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
