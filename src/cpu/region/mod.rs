//! The region skeleton: losses of sums over a region of an image, of which Dice is one.
//!
//! A region is a channel of a sample, or of the whole batch. It is looked at twice: for its sums, and
//! for its gradients, which need them. Regions follow one another, so that the second look finds what
//! it can in a cache. With softmax the channels of a position depend on each other and the regions of a
//! sample go together; sixteen positions lie side by side in the lanes there.

use rayon::prelude::*;

mod channels;
mod softmax;
mod tile;
mod value;

use channels::{ChannelGrads, ChannelSums};
use softmax::{SoftmaxGrads, SoftmaxSums};
use value::{Slopes, Sums, add};

use super::mem::{Dst, Mode, Src};
use super::scan::Scan;
use super::simd::{Isa, LANES};
use super::threads::shared;
use super::tiles::sum_weights;
use crate::call::{Output, Request};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::OfLogits;
use crate::params::DiceParams;
use crate::target::{Indices, Target};

/// What is done to the input first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Sigmoid,
    Softmax,
}

/// A region loss with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) params: DiceParams,
    pub(crate) activation: Activation,
    /// A region is a channel of the whole batch, not of a sample.
    pub(crate) batch: bool,
    /// Channel 0 has a loss too.
    pub(crate) include_background: bool,
}

/// What is computed beside a region loss from the same activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Beside {
    /// Of the softmax of a position.
    Softmax(OfSoftmax),
    /// Of the logits of a sigmoid, each by itself.
    Logits(OfLogits),
}

/// A loss of a position, with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum OfSoftmax {
    CrossEntropy { smoothing: f32, z_loss: f32 },
    Focal { gamma: f32 },
}

/// Such a loss in a call: it has class weights, and a factor of its gradients.
#[derive(Clone, Copy)]
struct Positions<'a> {
    loss: OfSoftmax,
    class_weight: Option<&'a [f32]>,
    scale: f32,
}

/// What every tile needs to know.
struct Plan<'a, T> {
    region: Region,
    positions: Option<Positions<'a>>,
    /// A loss of the logits, and the factor of its gradients.
    logits: Option<(OfLogits, f32)>,
    channels: usize,
    /// Positions of a channel of a sample.
    inner: usize,
    input: Src<'a, T>,
    target: RegionTarget<'a, T>,
    grad: Option<(Dst<'a, T>, Mode)>,
}

#[derive(Clone, Copy)]
enum RegionTarget<'a, T> {
    Dense(Src<'a, T>),
    Index(Indices<'a>),
}

/// Elements summed in f32 before the sum goes to f64.
const BLOCK: usize = 8 * LANES;
/// Positions of a tile, as many as fixed by nothing but this.
const TILE: usize = 1 << 14;
/// Elements of a group from which several threads share it.
const SPLIT_MIN: usize = 1 << 18;

/// Runs the loss; or its sum with another, and what the two are multiplied by.
pub(crate) fn run<T: Element>(
    region: Region,
    beside: Option<(Beside, [f32; 2])>,
    request: Request<'_, T>,
) -> Result<f32> {
    let n = request.input.len();
    let extras = request.extras;
    let unsupported = |what| Error::Unsupported { loss: region.name, what };
    let shape = extras.shape.ok_or(unsupported("a call without a shape"))?;
    shape.check_input(n)?;
    extras.report.check((region.name, false), true, 0, (|to| to.len(), |to| to.indices()))?;
    extras.third.check(region.name, None, false)?;
    let (samples, channels, inner) = (shape.outer, shape.classes, shape.inner);
    let background = usize::from(!region.include_background);
    if channels == background {
        return Err(unsupported("leaving out the background of a single channel"));
    }
    let counted = channels - background;
    // The losses of a group, which is a sample or the batch.
    let each = if region.params.together == 0 { counted } else { 1 };
    let regions = if region.batch { each } else { samples * each };
    // Those of a sum are of all channels.
    let all = if beside.is_some() { channels } else { counted };
    if let Some(w) = extras.class_weight {
        if region.params.together != 0 {
            return Err(unsupported("a class weight"));
        }
        check_len("class_weight", all, w.len())?;
    }
    let class_weight = extras.class_weight.map(|w| &w[all - counted..]);
    if beside.is_some() && extras.weight.is_some() {
        return Err(unsupported("a weight, which is of regions or of rows,"));
    }
    let of_logits = matches!(beside, Some((Beside::Logits(_), _)));
    if of_logits && extras.class_weight.is_some() {
        return Err(unsupported("a class weight"));
    }
    let of_focal = matches!(beside, Some((Beside::Softmax(OfSoftmax::Focal { .. }), _)));
    if extras.grad_target.is_some() {
        return Err(unsupported("a gradient for the targets"));
    }
    let weight = extras.weight.map(|w| w.per_loss(regions)).transpose()?;
    let target = match extras.target {
        Target::Dense(_) if of_focal => return Err(unsupported("a target of this kind")),
        Target::Dense(t) => {
            check_len("target", n, t.len())?;
            RegionTarget::Dense(Src::new(t))
        }
        Target::Nothing => return Err(unsupported("a call without targets")),
        _ => {
            let indices = extras.target.indices().expect("the other targets are indices");
            check_len("target", samples * inner, indices.len())?;
            Scan { indices, classes: channels, ignore: None }.check()?;
            RegionTarget::Index(indices)
        }
    };
    if let Some(terms) = &extras.terms {
        check_len("terms", 2, terms.len())?;
    }
    let weight_of = |r: usize| {
        let class = class_weight.map_or(1.0, |w| w[r % counted]);
        class * weight.map_or(1.0, |(w, each)| w[r / each])
    };
    // Without a weight of their own, samples are alike: there may be more of them than there is time for.
    let weighted = match weight {
        None => class_weight.map_or(each as f64, sum_weights) * (regions / each) as f64,
        Some(_) => (0..regions).map(|r| f64::from(weight_of(r))).sum(),
    };
    let (mut losses, mut grad_output, mut denominator, mut of_rows) = (None, None, 1.0, 1.0);
    match request.output {
        Output::Reduced(reduction) => {
            reduction.check(regions)?;
            denominator = reduction.denominator(|| regions as f64, || weighted);
            if beside.is_some() {
                let single = samples * inner * if of_logits { counted } else { 1 };
                reduction.check(samples * inner)?;
                let weighted = || match (target, extras.class_weight) {
                    (RegionTarget::Index(indices), Some(w)) => {
                        Scan { indices, classes: channels, ignore: None }.sum(|_, class| f64::from(w[class]))
                    }
                    _ => single as f64,
                };
                // The mean of a focal loss is over positions, whatever they weigh.
                let counted = || if of_focal { single as f64 } else { weighted() };
                of_rows = reduction.denominator(counted, weighted);
            }
        }
        Output::Unreduced { .. } if beside.is_some() => {
            return Err(unsupported("a call without a reduction, for its terms are of regions and of rows,"));
        }
        Output::Unreduced { losses: l, grad_output: g } => {
            if let Some(l) = l {
                check_len("losses", regions, l.len())?;
            }
            if let Some(g) = g {
                check_len("grad_output", regions, g.len())?;
            }
            (losses, grad_output) = (l, g);
        }
    }
    let [weight_of_regions, weight_of_rows] = beside.map_or([1.0, 0.0], |(_, weights)| weights.map(f64::from));
    // The value of the whole, from the sums of both.
    let whole = |[of_region, of_row]: [f64; 2]| {
        let terms = [of_region / denominator, of_row / of_rows];
        if let Some(out) = extras.terms {
            // SAFETY: there are two, and this is the only task.
            (0..2).for_each(|j| unsafe { out.set(j, terms[j] as f32) });
        }
        let both = || weight_of_regions * terms[0] + weight_of_rows * terms[1];
        (if beside.is_some() { both() } else { terms[0] }) as f32
    };
    if n == 0 {
        // Regions without elements, perhaps more of them than there is time to look at.
        let value = match region.params.together {
            0 => region.params.value([0.0; 3]).0,
            _ => region.params.together(&[]).0,
        };
        if let Some(losses) = losses {
            // SAFETY: this is the only task.
            (0..regions).for_each(|r| unsafe { losses.set(r, (value * f64::from(weight_of(r))) as f32) });
        }
        let total = if regions == 0 { 0.0 } else { value * weighted };
        return Ok(whole([total, 0.0]));
    }
    let bytes = n * size_of::<T>();
    let mode = Mode::new(extras.accumulate, request.in_place, bytes);
    let grad_output_of_all = f64::from(extras.grad_output);
    let beside_scale = (grad_output_of_all * weight_of_rows / of_rows) as f32;
    let (positions, logits) = match beside {
        Some((Beside::Softmax(loss), _)) => {
            (Some(Positions { loss, class_weight: extras.class_weight, scale: beside_scale }), None)
        }
        Some((Beside::Logits(loss), _)) => (None, Some((loss, beside_scale))),
        None => (None, None),
    };
    let plan = Plan {
        region,
        positions,
        logits,
        channels,
        inner,
        input: request.input,
        target,
        grad: request.grad_input.map(|g| (g, mode)),
    };
    let scale = grad_output_of_all * weight_of_regions / denominator;
    // The value of loss `r` times its weight, and what its slopes are multiplied by.
    let settle = |r: usize, value: f64| {
        let weight = f64::from(weight_of(r));
        if let Some(losses) = losses {
            // SAFETY: loss `r` is finished by one task.
            unsafe { losses.set(r, (value * weight) as f32) };
        }
        (value * weight, scale * weight * grad_output.map_or(1.0, |g| f64::from(g[r])))
    };
    let finish = |r: usize, sums: Sums| {
        let (value, slopes) = region.params.value(sums);
        let (value, scale) = settle(r, value);
        (value, Slopes::new(slopes, scale))
    };
    // The same of a group that has one loss.
    let finish_together = |group: usize, sums: &[Sums]| {
        let (value, slopes) = region.params.together(&sums[background..]);
        let (value, scale) = settle(group, value);
        let left_out = std::iter::repeat_n(Slopes::default(), background);
        (value, left_out.chain(slopes.into_iter().map(|s| Slopes::new(s, scale))).collect::<Vec<Slopes>>())
    };

    // A group is the regions that are worked on together: their samples and their channels.
    let samples_of = |group: usize, each: usize| if region.batch { 0..samples } else { group / each..group / each + 1 };
    let sums = if region.activation == Activation::Softmax {
        let groups = if region.batch { 1 } else { samples };
        for_groups(groups, n / groups, &|group, split| {
            let samples = samples_of(group, 1);
            let (sums, cost) = plan.softmax_sums(samples.clone(), split);
            let (mut value, mut slopes) = (0.0, vec![Slopes::default(); channels]);
            if region.params.together != 0 {
                (value, slopes) = finish_together(group, &sums);
            } else {
                for c in background..channels {
                    let (v, s) = finish(group * counted + c - background, sums[c]);
                    value += v;
                    slopes[c] = s;
                }
            }
            plan.softmax_grads(samples, &slopes, split);
            [value, cost]
        })
    } else if region.params.together != 0 {
        let groups = if region.batch { 1 } else { samples };
        for_groups(groups, n / groups, &|group, split| {
            let samples = samples_of(group, 1);
            let mut sums = vec![[0.0; 3]; channels];
            for c in background..channels {
                (sums[c], _) = plan.channel_sums(samples.clone(), c, split);
            }
            let (value, slopes) = finish_together(group, &sums);
            for c in 0..channels {
                let slopes = Some(slopes[c]).filter(|_| c >= background);
                plan.channel_grads(samples.clone(), c, slopes, split);
            }
            [value, 0.0]
        })
    } else {
        let groups = if region.batch { channels } else { samples * channels };
        for_groups(groups, n / groups, &|group, split| {
            let (samples, c) = (samples_of(group, channels), group % channels);
            if c < background {
                plan.channel_grads(samples, c, None, split);
                return [0.0; 2];
            }
            let (sums, cost) = plan.channel_sums(samples.clone(), c, split);
            let (value, slopes) = finish(group / channels * counted + c - background, sums);
            plan.channel_grads(samples, c, Some(slopes), split);
            [value, cost]
        })
    };
    Ok(whole(sums))
}

/// The sums of `task`, of regions and of rows, over all groups, in order. Small groups are dealt to the threads, large ones are
/// split among them; the result is the same.
fn for_groups(groups: usize, elements: usize, task: &(dyn Fn(usize, bool) -> [f64; 2] + Sync)) -> [f64; 2] {
    let add = |[a, b]: [f64; 2], [c, d]: [f64; 2]| [a + c, b + d];
    if elements >= SPLIT_MIN {
        (0..groups).map(|g| task(g, true)).fold([0.0; 2], add)
    } else if groups > 1 && groups * elements >= SPLIT_MIN {
        let mut values = vec![[0.0; 2]; groups];
        shared(|| values.par_iter_mut().enumerate().for_each(|(g, v)| *v = task(g, false)));
        values.into_iter().fold([0.0; 2], add)
    } else {
        (0..groups).map(|g| task(g, false)).fold([0.0; 2], add)
    }
}

/// Runs `task(sample, start, end)` over tiles of positions and adds up what it returns, in order.
fn for_tiles<R: Send>(
    samples: std::ops::Range<usize>,
    inner: usize,
    tile: usize,
    split: bool,
    task: &(dyn Fn(usize, usize, usize) -> R + Sync),
    add: &mut dyn FnMut(R),
) {
    let per_sample = inner.div_ceil(tile);
    let one = |j: usize| {
        let start = j % per_sample * tile;
        task(samples.start + j / per_sample, start, inner.min(start + tile))
    };
    let count = samples.len() * per_sample;
    if split && count > 1 {
        shared(|| (0..count).into_par_iter().map(one).collect::<Vec<R>>()).into_iter().for_each(add);
    } else {
        (0..count).for_each(|j| add(one(j)));
    }
}

impl<T: Element> Plan<'_, T> {
    /// The sums of one region, and that of the loss of its logits.
    fn channel_sums(&self, samples: std::ops::Range<usize>, c: usize, split: bool) -> (Sums, f64) {
        let isa = Isa::detect();
        let (mut sums, mut cost) = ([0.0; 3], 0.0);
        let task = |n: usize, start: usize, end: usize| isa.run(ChannelSums { plan: self, n, c, start, end });
        for_tiles(samples, self.inner, tile_of(self.inner), split, &task, &mut |(tile, more)| {
            add(&mut sums, tile);
            cost += more;
        });
        (sums, cost)
    }

    /// The gradients of one region.
    fn channel_grads(&self, samples: std::ops::Range<usize>, c: usize, slopes: Option<Slopes>, split: bool) {
        let Some(grad) = self.grad else { return };
        let isa = Isa::detect();
        let task =
            |n: usize, start: usize, end: usize| isa.run(ChannelGrads { plan: self, n, c, start, end, slopes, grad });
        for_tiles(samples, self.inner, tile_of(self.inner), split, &task, &mut |()| ());
    }

    /// The sums of all channels, and that of the loss of positions.
    fn softmax_sums(&self, samples: std::ops::Range<usize>, split: bool) -> (Vec<Sums>, f64) {
        let isa = Isa::detect();
        let (mut sums, mut cost) = (vec![[0.0; 3]; self.channels], 0.0);
        let task = |n: usize, start: usize, end: usize| isa.run(SoftmaxSums { plan: self, n, start, end });
        for_tiles(samples, self.inner, self.softmax_tile(), split, &task, &mut |(tile, more): (Vec<Sums>, f64)| {
            sums.iter_mut().zip(tile).for_each(|(sum, s)| add(sum, s));
            cost += more;
        });
        (sums, cost)
    }

    /// The gradients of all channels.
    fn softmax_grads(&self, samples: std::ops::Range<usize>, slopes: &[Slopes], split: bool) {
        let Some(grad) = self.grad else { return };
        let isa = Isa::detect();
        let task =
            |n: usize, start: usize, end: usize| isa.run(SoftmaxGrads { plan: self, n, start, end, slopes, grad });
        for_tiles(samples, self.inner, self.softmax_tile(), split, &task, &mut |()| ());
    }

    /// Positions of a tile with all their channels.
    fn softmax_tile(&self) -> usize {
        (tile_of(self.inner) / self.channels).max(self.inner / 256).max(BLOCK).next_multiple_of(BLOCK)
    }
}

fn tile_of(inner: usize) -> usize {
    // At most 1024 partial sums a sample.
    TILE.max(inner / 1024).next_multiple_of(BLOCK)
}
