//! Sums of a region loss and a loss of single predictions, against their definitions in f64 and against the two one after the other.

use fused_loss::*;

use super::support::{BY_KERNELS, Random};
use super::textbook::{self as book, Activation, CrossEntropyOptions, Overlap, RegionOptions};

#[derive(Clone, Copy, Debug)]
enum AnyRegion {
    Dice(DiceLoss),
    Tversky(TverskyLoss),
}

/// A region loss, and its options as the textbook has them.
#[derive(Clone, Copy)]
struct OfRegion {
    loss: AnyRegion,
    options: RegionOptions,
}

const PLAIN: RegionOptions = RegionOptions {
    overlap: Overlap::Dice,
    activation: Activation::Sigmoid,
    batch: false,
    include_background: true,
    squared_pred: false,
    smooth_nr: 1.0,
    smooth_dr: 1.0,
    gamma: 1.0,
    weight: None,
};

impl OfRegion {
    /// Dice, or Jaccard.
    fn dice(softmax: bool, [batch, background, squared_pred, jaccard]: [bool; 4]) -> Self {
        let loss = DiceLoss::new().batch(batch).include_background(background);
        let loss = loss.squared_pred(squared_pred).jaccard(jaccard);
        let loss = AnyRegion::Dice(if softmax { loss.softmax() } else { loss.sigmoid() });
        let overlap = if jaccard { Overlap::Jaccard } else { Overlap::Dice };
        let options = RegionOptions { overlap, batch, include_background: background, squared_pred, ..PLAIN };
        OfRegion { loss, options }.activated(softmax)
    }

    /// Tversky, or to a power the focal form.
    fn tversky(softmax: bool, [batch, background]: [bool; 2], [alpha, beta, gamma]: [f32; 3]) -> Self {
        let loss = TverskyLoss::new(alpha, beta).unwrap().focal(gamma).unwrap();
        let loss = loss.batch(batch).include_background(background);
        let loss = AnyRegion::Tversky(if softmax { loss.softmax() } else { loss.sigmoid() });
        let overlap = Overlap::Tversky { alpha: alpha.into(), beta: beta.into() };
        let options = RegionOptions { overlap, batch, include_background: background, gamma: gamma.into(), ..PLAIN };
        OfRegion { loss, options }.activated(softmax)
    }

    fn activated(mut self, softmax: bool) -> Self {
        self.options.activation = if softmax { Activation::Softmax } else { Activation::Sigmoid };
        self
    }
}

/// What is beside it.
#[derive(Clone, Copy, Debug)]
enum Other {
    CrossEntropy { smoothing: f32, z_loss: f32 },
    SoftmaxFocal { gamma: f32 },
    Bce { pos_weight: f32, smoothing: f32 },
    SigmoidFocal { alpha: Option<f32>, gamma: f32 },
}

fn cross_entropy(smoothing: f32, z_loss: f32) -> CrossEntropy {
    CrossEntropy::new().label_smoothing(smoothing).unwrap().z_loss(z_loss).unwrap()
}

fn softmax_focal(gamma: f32) -> SoftmaxFocal {
    SoftmaxFocal::new().gamma(gamma).unwrap()
}

fn bce(pos_weight: f32, smoothing: f32) -> BceWithLogits {
    BceWithLogits::new().pos_weight(pos_weight).unwrap().label_smoothing(smoothing).unwrap()
}

fn sigmoid_focal(alpha: Option<f32>, gamma: f32) -> SigmoidFocal {
    SigmoidFocal::new().alpha(alpha).unwrap().gamma(gamma).unwrap()
}

impl Other {
    /// In either order.
    fn beside(self, region: AnyRegion) -> CombinedRegions {
        macro_rules! sum {
            ($region:expr) => {
                match self {
                    Other::CrossEntropy { smoothing, z_loss } => 0.5 * $region + 2.0 * cross_entropy(smoothing, z_loss),
                    Other::SoftmaxFocal { gamma } => 0.5 * $region + 2.0 * softmax_focal(gamma),
                    Other::Bce { pos_weight, smoothing } => 0.5 * $region + 2.0 * bce(pos_weight, smoothing),
                    Other::SigmoidFocal { alpha, gamma } => 2.0 * sigmoid_focal(alpha, gamma) + 0.5 * $region,
                }
            };
        }
        match region {
            AnyRegion::Dice(loss) => sum!(loss),
            AnyRegion::Tversky(loss) => sum!(loss),
        }
    }
}

const WEIGHTS: [f64; 2] = [0.5, 2.0];

/// So large that gradients of means are normal numbers of f16, and those of sums still numbers.
const UPSTREAM: f32 = 4096.0;

/// A sum, and what it is called with.
#[derive(Clone, Copy)]
struct Ask {
    region: OfRegion,
    other: Other,
    dims: [usize; 3],
    index: bool,
    class_weight: bool,
    reduction: Reduction,
}

impl Ask {
    fn sum(&self) -> CombinedRegions {
        self.other.beside(self.region.loss)
    }

    /// The channels that have regions begin here.
    fn first(&self) -> usize {
        usize::from(!self.region.options.include_background)
    }

    /// Both terms, by their definitions; and what errors are measured against at least: of the region loss, which is a difference from 1,
    /// and of softmax focal loss, a power of a small number whose own error counts so many times.
    fn definition(&self, x: &[f64], t: &[f64], w: &[f64]) -> ([f64; 2], [f64; 2]) {
        let [n, c, inner] = self.dims;
        let regions = book::regions(x, t, self.dims, self.region.options);
        let weighed = regions.iter().zip(w[self.first()..].iter().cycle());
        let (region, weights) = weighed.fold((0.0, 0.0), |(sum, weights), (region, w)| (sum + w * region, weights + w));

        let (mut other, mut count, mut share) = (0.0, 0.0, 0.0);
        let at = |s: usize, k: usize, i: usize| (s * c + k) * inner + i;
        for (s, i) in (0..n).flat_map(|s| (0..inner).map(move |i| (s, i))) {
            let row = |x: &[f64]| (0..c).map(|k| x[at(s, k, i)]).collect::<Vec<f64>>();
            let (z, q) = (row(x), row(t));
            // The background is left out of the losses of elements alone.
            let mut elements = |loss: &dyn Fn(f64, f64) -> f64| {
                count += (c - self.first()) as f64;
                (self.first()..c).map(|k| loss(z[k], q[k])).sum::<f64>()
            };
            other += match self.other {
                Other::CrossEntropy { smoothing, z_loss } => {
                    let (smoothing, z_loss) = (smoothing.into(), z_loss.into());
                    book::cross_entropy(&z, &q, w, CrossEntropyOptions { smoothing, z_loss, softcap: None })
                }
                Other::SoftmaxFocal { gamma } => book::softmax_focal(&z, &q, w, gamma.into()),
                Other::Bce { pos_weight, smoothing } => {
                    let t = |t| book::smooth_binary(t, smoothing.into());
                    elements(&|x, of| book::bce_with_logits(x, t(of), pos_weight.into()))
                }
                Other::SigmoidFocal { alpha, gamma } => {
                    elements(&|x, t| book::sigmoid_focal(x, t, alpha.map(f64::from), gamma.into()))
                }
            };
            share += q.iter().zip(w).map(|(q, w)| q * w).sum::<f64>();
        }
        let of_softmax = matches!(self.other, Other::CrossEntropy { .. } | Other::SoftmaxFocal { .. });
        let weighted = if of_softmax { share } else { count };
        let mean = match self.other {
            Other::CrossEntropy { .. } => share,
            Other::SoftmaxFocal { .. } => (n * inner) as f64,
            _ => count,
        };
        let denominators = match self.reduction {
            Reduction::Mean => [regions.len() as f64, mean],
            Reduction::WeightedMean => [weights, weighted],
            Reduction::BatchMean(batch) => [batch as f64; 2],
            Reduction::SumOver(d) => [d; 2],
            _ => [1.0; 2],
        };
        let least = if matches!(self.other, Other::SoftmaxFocal { .. }) { 1e-3 * (n * inner) as f64 } else { 0.0 };
        (
            [region / denominators[0], other / denominators[1]],
            [0.25 * weights / denominators[0], least / denominators[1]],
        )
    }

    /// The two one after the other, of f32: their values, and what the gradient of the sum is.
    fn apart(&self, x: &[f32], classes: &[u8], t: &[f32], w: &[f32]) -> ([f32; 2], Vec<f32>) {
        let (first, [n, c, inner]) = (self.first(), self.dims);
        let (mut of_region, mut of_other) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let target: Target<f32> = if self.index { classes.into() } else { t.into() };
        macro_rules! run {
            ($loss:expr, $weights:expr, $grad:expr) => {{
                let call = $loss.call(x, target, self.dims).grad_output(UPSTREAM);
                let call = if self.class_weight { call.class_weight($weights) } else { call };
                call.forward_backward(self.reduction, $grad).unwrap()
            }};
        }
        let region = match self.region.loss {
            AnyRegion::Dice(loss) => run!(loss, &w[first..], &mut of_region),
            AnyRegion::Tversky(loss) => run!(loss, &w[first..], &mut of_region),
        };
        let counted = |x: &[f32]| -> Vec<f32> {
            x.chunks(c * inner).flat_map(|sample| sample[first * inner..].iter().copied()).collect()
        };
        let (x1, t1) = (counted(x), counted(t));
        let mut elements = |loss: Combined| {
            let mut grad = vec![0.0; n * (c - first) * inner];
            let call = loss.call(&x1, &t1).grad_output(UPSTREAM);
            let value = call.forward_backward(self.reduction, &mut grad).unwrap();
            for (sample, from) in of_other.chunks_mut(c * inner).zip(grad.chunks((c - first) * inner)) {
                sample[first * inner..].copy_from_slice(from);
            }
            value
        };
        let other = match self.other {
            Other::Bce { pos_weight, smoothing } => elements(1.0 * bce(pos_weight, smoothing)),
            Other::SigmoidFocal { alpha, gamma } => elements(1.0 * sigmoid_focal(alpha, gamma)),
            Other::CrossEntropy { smoothing, z_loss } => run!(cross_entropy(smoothing, z_loss), w, &mut of_other),
            Other::SoftmaxFocal { gamma } => run!(softmax_focal(gamma), w, &mut of_other),
        };
        ([region, other], of_region.iter().zip(&of_other).map(|(r, o)| 0.5 * r + 2.0 * o).collect())
    }

    fn check<T: Element>(&self, half_ulp: f64) {
        let (sum, [n, c, inner]) = (self.sum(), self.dims);
        let what = format!("{sum:?} {:?} {:?} {}", self.dims, self.reduction, T::NAME);
        let mut random = Random((n * c * inner + 1) as u64);
        let x: Vec<T> = random.floats(n * c * inner, -9.0, 9.0).into_iter().map(T::from_f32).collect();
        let classes: Vec<u8> = (0..n * inner).map(|_| random.below(c) as u8).collect();
        let soft: Vec<T> = random.floats(n * c * inner, 0.0, 1.0).into_iter().map(T::from_f32).collect();
        let w = if self.class_weight { random.floats(c, 0.25, 2.0) } else { vec![1.0; c] };
        let target: Target<T> = if self.index { (&classes).into() } else { (&soft).into() };
        let (mut terms, mut grad) = ([f32::NAN; 2], vec![T::from_f32(f32::NAN); x.len()]);
        let call = || {
            let call = sum.call(&x, target, self.dims).grad_output(UPSTREAM);
            if self.class_weight { call.class_weight(&w) } else { call }
        };
        let value = call().terms(&mut terms).forward_backward(self.reduction, &mut grad).unwrap();
        assert_eq!(call().forward(self.reduction).unwrap().to_bits(), value.to_bits(), "{what}");
        let mut in_place = x.clone();
        let over = sum.call_in_place(&mut in_place, target, self.dims).grad_output(UPSTREAM);
        let over = if self.class_weight { over.class_weight(&w) } else { over };
        assert_eq!(over.forward_backward(self.reduction).unwrap().to_bits(), value.to_bits(), "{what}");
        let bits = |x: &[T]| x.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<u32>>();
        assert!(bits(&in_place) == bits(&grad), "{what}: in place");

        // In f64: values, and by differences the gradient of some elements.
        let hard =
            |i: usize| f32::from(u8::from(usize::from(classes[i / (c * inner) * inner + i % inner]) == i / inner % c));
        let t: Vec<f32> = (0..x.len()).map(|i| if self.index { hard(i) } else { soft[i].to_f32() }).collect();
        let narrow: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let wide = |x: &[f32]| x.iter().map(|&x| x.into()).collect::<Vec<f64>>();
        let (mut x64, t64, w64) = (wide(&narrow), wide(&t), wide(&w));
        let (want, least) = self.definition(&x64, &t64, &w64);
        let whole = |[region, other]: [f64; 2]| WEIGHTS[0] * region + WEIGHTS[1] * other;
        let values = [(terms[0], want[0], least[0]), (terms[1], want[1], least[1]), (value, whole(want), whole(least))];
        for (got, want, least) in values {
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.max(least), "{what}: {got} {want}");
        }
        let (apart, of_both) = self.apart(&narrow, &classes, &t, &w);
        // With an activation that saturates, the region's is a difference of slopes: as in `cases::tolerance`.
        let slopes = 4.0 * f64::from(UPSTREAM) * WEIGHTS[0] * 4.0 * least[0] / x.len() as f64;
        let largest = of_both.iter().fold(slopes, |a, g| a.max(f64::from(g.abs())));
        let near = |i: usize, want: f64| {
            let got = f64::from(grad[i].to_f32());
            assert!(
                (got - want).abs() <= 3e-6 * largest + half_ulp * want.abs(),
                "{what} [{i}]: {got} {want} of {largest}"
            );
        };
        for k in 0..8 {
            let i = k * (x.len() - 1) / 7;
            let (here, h) = (x64[i], 1e-3);
            let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|step| {
                x64[i] = here + step * h;
                whole(self.definition(&x64, &t64, &w64).0)
            });
            x64[i] = here;
            near(i, f64::from(UPSTREAM) * (8.0 * (c - b) - (d - a)) / (12.0 * h));
        }
        // Of the others by the two losses.
        for (got, want) in terms.iter().zip(apart) {
            assert!((got - want).abs() <= 2e-6 * want.abs().max(0.1), "{what}: {got} {want}");
        }
        of_both.iter().enumerate().for_each(|(i, &want)| near(i, want.into()));
    }
}

/// Prices of Tversky's false positives and negatives, and the focal form's power.
const TVERSKY: [[f32; 3]; 3] = [[0.3, 0.7, 1.0], [0.6, 0.4, 0.75], [0.25, 0.5, 2.0]];

/// Dice or Jaccard and Tversky by turns; all of both take turns with the options.
fn each(softmax: bool, reductions: &[Reduction], others: &[Other]) {
    for (i, dims) in [[1, 2, 1], [2, 3, 17], [1, 4, 1030], [3, 2, 129], [1, 20, 64]].into_iter().enumerate() {
        for (j, &reduction) in reductions.iter().enumerate() {
            let turn = i * reductions.len() + j;
            let (batch, background) = (j % 2 == 0, turn % 4 != 1);
            let dice = OfRegion::dice(softmax, [batch, background, i % 2 == 1, turn % 3 == 2]);
            let tversky = OfRegion::tversky(softmax, [batch, background], TVERSKY[turn % 3]);
            for (k, region) in [dice, tversky].into_iter().enumerate() {
                // Kernels on the host take their time.
                if BY_KERNELS && !(turn + k).is_multiple_of(3) {
                    continue;
                }
                let other = others[(turn + k) % others.len()];
                // Of a softmax classes alone, and weights of them.
                let ask = Ask {
                    region,
                    other,
                    dims,
                    index: softmax || turn % 3 == 1,
                    class_weight: softmax && (i + j) % 2 == 0,
                    reduction,
                };
                ask.check::<f32>(6e-8);
                if !BY_KERNELS || k == 0 {
                    ask.check::<half::f16>(2f64.powi(-11));
                }
                if !BY_KERNELS || k == 1 {
                    ask.check::<half::bf16>(2f64.powi(-8));
                }
            }
        }
    }
}

#[test]
fn regions_and_a_loss_of_their_softmax_are_the_two_losses() {
    let reductions =
        [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::BatchMean(1), Reduction::SumOver(2.5)];
    let focal = |gamma| Other::SoftmaxFocal { gamma };
    each(
        true,
        &reductions,
        &[
            focal(2.0),
            focal(0.0),
            Other::CrossEntropy { smoothing: 0.125, z_loss: 0.0 },
            focal(0.5),
            focal(1.0),
            Other::CrossEntropy { smoothing: 0.0, z_loss: 0.0625 },
            focal(5.0),
        ],
    );
}

#[test]
fn regions_and_a_loss_of_their_logits_are_the_two_losses() {
    let reductions = [Reduction::Mean, Reduction::Sum, Reduction::BatchMean(1), Reduction::SumOver(2.5)];
    each(
        false,
        &reductions,
        &[
            Other::Bce { pos_weight: 3.0, smoothing: 0.125 },
            Other::SigmoidFocal { alpha: Some(0.25), gamma: 2.0 },
            Other::SigmoidFocal { alpha: None, gamma: 1.5 },
        ],
    );
}

#[test]
fn softmax_focal_beside_dice_is_finite_where_the_softmax_saturates() {
    let dims = [1, 3, 4];
    // Sure and right; sure and wrong; the other classes masked; all alike.
    let (inf, big) = (f32::NEG_INFINITY, 200.0);
    let x = [big, big, 1.0, 0.0, 0.0, 0.0, inf, 0.0, 0.0, 0.0, inf, 0.0f32];
    let classes = [0u8, 1, 0, 2];
    for gamma in [0.0, 0.5, 1.0, 2.0, 7.0] {
        let focal = SoftmaxFocal::new().gamma(gamma).unwrap();
        let (mut grad, mut terms) = ([f32::NAN; 12], [f32::NAN; 2]);
        let sum = 0.0 * DiceLoss::new().softmax() + focal;
        sum.call(&x, &classes, dims).terms(&mut terms).forward_backward(Reduction::Sum, &mut grad).unwrap();
        let mut own = [f32::NAN; 12];
        let value = focal.forward_backward(&x, &classes, dims, Reduction::Sum, &mut own).unwrap();
        assert!((terms[1] - value).abs() <= 1e-6 * value && value.is_finite(), "{gamma}: {} {value}", terms[1]);
        for (grad, own) in grad.iter().zip(own) {
            assert!((grad - own).abs() <= 2e-6 && own.is_finite(), "{gamma}: {grad} {own}");
        }
    }
}
