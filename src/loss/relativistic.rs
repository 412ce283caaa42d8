use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::mem::{Dst, Mode, Src, fence};
use crate::cpu::simd::{F32s, Isa, Kernel, LANES, Machine, Simd};
use crate::cpu::softmax::BlockSum;
use crate::cpu::tiles::Tiles;
use crate::element::Element;
use crate::error::{Result, check_len};
use crate::loss::elementwise_loss;

/// Relativistic pairing GAN: how much more real is each real sample than the fake one beside it?
///
/// | | |
/// |---|---|
/// | value | `D: sp(F - R)`, `G: sp(R - F)` |
/// | gradient | `D: dl/dF = sigmoid(F - R) = -dl/dR`; for the generator the same with R and F swapped |
/// | shapes | input and target of equal length: for the discriminator `(fake, real)`, for the generator `(real, fake)` |
/// | source | Jolicoeur-Martineau 2018; the loss of R3GAN, Huang et al. 2024 |
///
/// It is an element-wise loss `softplus(input - target)` with gradients for both sides.
///
/// ```
/// use fused_loss::{Reduction, RelativisticPair};
/// # fn main() -> fused_loss::Result<()> {
/// let (real, fake) = ([1.2, -0.3, 0.8], [-0.5, 0.4, -1.1]);
/// let (mut grad_real, mut grad_fake) = ([0.0; 3], [0.0; 3]);
/// let d = RelativisticPair.call(&fake, &real).grad_target(&mut grad_real).forward_backward(Reduction::Mean, &mut grad_fake)?;
/// assert!((d - 0.470119612_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RelativisticPair;

impl Pointwise for RelativisticPair {
    const NAME: &'static str = "relativistic pair";
    const GRAD_TARGET: bool = true;
    const LONG: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        Point { value: (x - t).softplus(), grad: (x - t).sigmoid() }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        -self.eval(x, t, aux).grad
    }
}

elementwise_loss!(RelativisticPair);
elementwise_methods!(RelativisticPair);

/// Relativistic average GAN: how much more real is a real sample than fake ones are on average?
///
/// With `A = R - mean(F)`, `B = F - mean(R)`:
///
/// | | |
/// |---|---|
/// | value | `D: (mean sp(-A) + mean sp(B)) / 2`; `G:` the same with R and F swapped |
/// | gradient | `D: dl/dR_i = -(sigmoid(-A_i) + mean sigmoid(B)) / (2 n_R)`, `dl/dF_j = (sigmoid(B_j) + mean sigmoid(-A)) / (2 n_F)`: it flows through the means |
/// | shapes | `real` and `fake` are any two slices; their lengths may differ |
/// | source | Jolicoeur-Martineau 2018; ESRGAN |
///
/// The means are what the loss is made of, so it has no other reduction and no unreduced form. It is the
/// same if all logits move by one number, and its gradients sum to zero. An empty batch gives NaN.
///
/// ```
/// use fused_loss::RelativisticAverage;
/// # fn main() -> fused_loss::Result<()> {
/// let (real, fake) = ([1.2, -0.3, 0.8], [-0.5, 0.4, -1.1]);
/// let (mut grad_real, mut grad_fake) = ([0.0; 3], [0.0; 3]);
/// let ragan = RelativisticAverage::new();
/// let d = ragan.discriminator(&real, &fake, &mut grad_real, &mut grad_fake)?;
/// assert!((d - 0.362272429_f32).abs() < 1e-6);
/// let g = ragan.generator(&real, &fake, &mut grad_real, &mut grad_fake)?;
/// assert!((g - 1.328939096_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelativisticAverage {
    grad_output: f32,
    accumulate: bool,
}

impl RelativisticAverage {
    /// The loss.
    pub fn new() -> Self {
        RelativisticAverage { grad_output: 1.0, accumulate: false }
    }

    /// The upstream gradient; see [`Call::grad_output`](crate::Call::grad_output).
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// The discriminator's value, and its gradients for both batches.
    pub fn discriminator<T: Element>(
        &self,
        real: &[T],
        fake: &[T],
        grad_real: &mut [T],
        grad_fake: &mut [T],
    ) -> Result<f32> {
        check_len("grad_real", real.len(), grad_real.len())?;
        check_len("grad_fake", fake.len(), grad_fake.len())?;
        Ok(self.run(real, fake, Some([grad_real, grad_fake])))
    }

    /// The discriminator's value alone.
    pub fn discriminator_forward<T: Element>(&self, real: &[T], fake: &[T]) -> f32 {
        self.run(real, fake, None)
    }

    /// The generator's value, and its gradients for both batches. That of the real one is usually not
    /// used, since no parameter of the generator stands behind it.
    pub fn generator<T: Element>(
        &self,
        real: &[T],
        fake: &[T],
        grad_real: &mut [T],
        grad_fake: &mut [T],
    ) -> Result<f32> {
        check_len("grad_real", real.len(), grad_real.len())?;
        check_len("grad_fake", fake.len(), grad_fake.len())?;
        Ok(self.run(fake, real, Some([grad_fake, grad_real])))
    }

    /// The generator's value alone.
    pub fn generator_forward<T: Element>(&self, real: &[T], fake: &[T]) -> f32 {
        self.run(fake, real, None)
    }

    /// `high` should be above the mean of `low`, and `low` below that of `high`.
    fn run<T: Element>(&self, high: &[T], low: &[T], grads: Option<[&mut [T]; 2]>) -> f32 {
        #[cfg(debug_assertions)]
        let mut grads = grads;
        #[cfg(debug_assertions)]
        if let Some(value) = crate::elsewhere::average((high, low), &mut grads, self.grad_output, self.accumulate) {
            return value;
        }
        let sides = [(high, -1.0), (low, 1.0)].map(|(x, sign)| Side { input: Src::new(x), sign });
        let means = sides.map(|side| side.mean(Sum::Input, 0.0));
        let shifts = [means[1], means[0]];
        let value: f64 = (0..2).map(|k| sides[k].mean(Sum::Softplus, shifts[k])).sum();
        if let Some(grads) = grads {
            let slopes: [f64; 2] = std::array::from_fn(|k| sides[k].mean(Sum::Sigmoid, shifts[k]));
            for (k, grad) in grads.into_iter().enumerate() {
                let (n, out) = (grad.len(), Dst::new(grad));
                let scale = 0.5 * f64::from(self.grad_output) * f64::from(sides[k].sign) / n as f64;
                let tile = |start, end| GradTile {
                    side: sides[k],
                    shift: split(shifts[k]),
                    other: slopes[1 - k] as f32,
                    scale: scale as f32,
                    mode: Mode::new(self.accumulate, false, n * size_of::<T>()),
                    range: (start, end),
                    out,
                };
                Tiles::new(n, LANES).sum(n, &|start, end| Isa::detect().run(tile(start, end)));
            }
        }
        (0.5 * value) as f32
    }
}

impl Default for RelativisticAverage {
    fn default() -> Self {
        RelativisticAverage::new()
    }
}

/// One of the two batches, whose loss is `softplus(sign (x - mean of the other))`.
struct Side<'a, T> {
    input: Src<'a, T>,
    sign: f32,
}

impl<T> Clone for Side<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Side<'_, T> {}

/// A mean in two parts: subtracted one after the other they are exact even where logits are far from zero.
type Shift = (f32, f32);

fn split(mean: f64) -> Shift {
    let high = mean as f32;
    (high, (mean - f64::from(high)) as f32)
}

/// What of a batch is summed.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    Input,
    Softplus,
    Sigmoid,
}

impl<T: Element> Side<'_, T> {
    fn mean(self, what: Sum, shift: f64) -> f64 {
        let n = self.input.len();
        let tile = |start, end| SumTile { side: self, what, shift: split(shift), range: (start, end) };
        Tiles::new(n, BLOCK).sum(n, &|start, end| Isa::detect().run(tile(start, end))) / n as f64
    }

    #[cfg_attr(optimized, inline(always))]
    fn load<S: Machine>(self, s: S, i: usize, count: usize) -> F32s<S> {
        // SAFETY: nobody writes the inputs.
        unsafe { self.input.load_upto(s, i, count, 0.0) }
    }

    /// `sign * (x - shift)`
    #[cfg_attr(optimized, inline(always))]
    fn logits<S: Machine>(self, x: F32s<S>, shift: Shift) -> F32s<S> {
        self.sign * ((x - shift.0) - shift.1)
    }
}

/// Elements summed in f32 before the sum goes to f64.
const BLOCK: usize = 8 * LANES;

struct SumTile<'a, T> {
    side: Side<'a, T>,
    what: Sum,
    shift: Shift,
    range: (usize, usize),
}

impl<T: Element> Kernel for SumTile<'_, T> {
    type Output = f64;

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> f64 {
        let mut sum = BlockSum::new(s);
        for block in (self.range.0..self.range.1).step_by(BLOCK) {
            for i in (block..self.range.1.min(block + BLOCK)).step_by(LANES) {
                let count = LANES.min(self.range.1 - i);
                let x = self.side.load(s, i, count);
                let value = match self.what {
                    Sum::Input => x,
                    Sum::Softplus => self.side.logits(x, self.shift).softplus(),
                    Sum::Sigmoid => self.side.logits(x, self.shift).sigmoid(),
                };
                sum.add_where(s.first(count), value);
            }
            sum.end_block();
        }
        sum.sum()
    }
}

struct GradTile<'a, T> {
    side: Side<'a, T>,
    shift: Shift,
    /// What comes through the mean: the mean slope of the other batch.
    other: f32,
    scale: f32,
    mode: Mode,
    range: (usize, usize),
    out: Dst<'a, T>,
}

impl<T: Element> Kernel for GradTile<'_, T> {
    type Output = f64;

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> f64 {
        for i in (self.range.0..self.range.1).step_by(LANES) {
            let count = LANES.min(self.range.1 - i);
            let x = self.side.load(s, i, count);
            let grad = self.scale * (self.side.logits(x, self.shift).sigmoid() + self.other);
            // SAFETY: tiles do not overlap, and a tile belongs to one task.
            unsafe { self.out.store_upto(s, i, count, grad, self.mode.at(self.out, i)) };
        }
        fence();
        0.0
    }
}

crate::cuda::kernel::kernel!(RelativisticPair, |_l| Kernel::elements::<RelativisticPair>(
    "gan",
    "relativistic_pair",
    NO_PARAMS
));

impl RelativisticAverage {
    /// The upstream gradient.
    pub(crate) fn upstream(&self) -> f32 {
        self.grad_output
    }

    /// Whether gradients are added to what is there.
    #[cfg(any(feature = "cuda", feature = "candle", feature = "burn"))]
    pub(crate) fn accumulates(&self) -> bool {
        self.accumulate
    }
}
