use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::sorted::{self, Sorted};
use crate::cuda::kernel::kernel;
use crate::error::Result;

/// Lovász hinge: the Jaccard index of binary masks, made convex, on logits.
///
/// For each region (a channel of a sample) with logits `x` and a mask of `t` in {0, 1}, the hinge errors `e = 1 - x (2 t - 1)` are sorted
/// from the largest down, and each weighs what the Jaccard loss of the pixels so far grows by:
///
/// | | |
/// |---|---|
/// | value | `l = sum_i max(e_i, 0) g_i`, `g_i = J(i) - J(i-1)`, `J(i) = 1 - (F - f_i) / (F + b_i)` with `F` pixels of the mask, of which `f_i` are among the first `i` errors, as are `b_i` others |
/// | gradient | `dl/dx_i = -(2 t_i - 1) g_i` where `e_i > 0`, else 0; the order counts as constant, as in the reference implementation |
/// | shapes | logits and masks `[samples, channels, ..]`; a loss for each channel of each sample |
/// | [`batch`](Self::batch) | a region is a channel of the whole batch |
/// | mean | over regions |
/// | reference implementation | `lovasz_hinge(logits, labels, per_image=True)`; `per_image=False` is `batch(true)` |
///
/// Source: Berman, Triki, Blaschko, "The Lovász-Softmax loss" (2018), algorithm 1 and section 2.1. The growth is computed in a form that
/// does not cancel: `1 / (F + b)` for a pixel of the mask, `(F - f) / ((F + b + 1) (F + b))` for another.
///
/// Edge cases: an empty mask leaves the largest error alone, as there. Equal errors are taken in the order of their pixels (the value
/// does not depend on it, the gradient does, where a subgradient is all that there is). A mask counts as 1 above 0.5. NaN makes the
/// value of its region, and its own gradient, NaN. Regions of up to 2^31 pixels.
///
/// **Speed.** A sort is most of the time, on the CPU of the errors above zero alone; memory of 8 bytes a pixel of a region besides 4 for the
/// gradient, and on a GPU 20 bytes an element of scratch memory.
///
/// Errors: weights, class weights, a gradient for targets and class indices as targets are not supported.
///
/// ```
/// use fused_loss::{LovaszHinge, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// // One image of one channel: the errors are 3, 0.5 and -1, of which the second is of the mask.
/// let (logits, mask) = ([2.0, 0.5, -2.0], [0.0, 1.0, 0.0]);
/// let mut grad = [0.0; 3];
/// let loss = LovaszHinge::new().forward_backward(&logits, &mask, [1, 1, 3], Reduction::Mean, &mut grad)?;
/// assert_eq!(loss, 3.0 * 0.5 + 0.5 * 0.5);
/// assert_eq!(grad, [0.5, -0.5, 0.0]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LovaszHinge(Sorted);

impl LovaszHinge {
    /// A region a channel of a sample.
    pub fn new() -> Self {
        let name = "Lovasz hinge";
        LovaszHinge(Sorted { name, softmax: false, batch: false, present: false, ignore_index: None })
    }

    /// Whether a region is a channel of the whole batch. Defaults to false.
    pub fn batch(mut self, batch: bool) -> Self {
        self.0.batch = batch;
        self
    }
}

/// Lovász-Softmax: the mean Jaccard index of classes, made differentiable, on logits.
///
/// With `p = softmax(x)` over the channels, each class has the errors `e = 1 - p_c` where it is the target and `e = p_c` elsewhere, whose
/// loss is that of [`LovaszHinge`]:
///
/// | | |
/// |---|---|
/// | value | `l_c = sum_i e_i g_i` of each class |
/// | gradient | `dl/dx_c = p_c (s_c - sum_k p_k s_k)`, `s_k = dl/dp_k = -g` where `k` is the target, else `g` |
/// | shapes | logits `[samples, classes, ..]`, a class index a position |
/// | [`batch`](Self::batch) | regions are classes of the whole batch (the default), or of each sample |
/// | [`all_classes`](Self::all_classes) | classes that occur in no target count too. Defaults to those alone that do |
/// | [`ignore_index`](Self::ignore_index) | positions of this class count for nothing. Defaults to none |
/// | mean | over the classes that occur, then over samples |
/// | reference implementation | `lovasz_softmax(softmax(logits), labels, classes='present', per_image=False)` |
///
/// Source and edge cases: as [`LovaszHinge`]. Of nothing but ignored positions the value is 0, as is a sum or unreduced value of a class
/// that does not occur. A class index that is no class is an error on the CPU, and NaN and [`Cuda::check`](crate::Cuda::check) on a GPU.
///
/// ```
/// use fused_loss::{LovaszSoftmax, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (logits, classes) = ([2.0, -1.0, 0.5, 0.1, 0.2, 0.3], [0u8, 255]); // one image of three channels and two pixels
/// let mut grad = [0.0; 6];
/// let loss = LovaszSoftmax::new().ignore_index(255);
/// let value = loss.forward_backward(&logits, &classes, [1, 3, 1, 2], Reduction::Mean, &mut grad)?;
/// let p = 2f32.exp() / (2f32.exp() + 0.5f32.exp() + 0.2f32.exp());
/// assert!((value - (1.0 - p)).abs() < 1e-6); // one class occurs, in one pixel
/// assert_eq!([grad[1], grad[3], grad[5]], [0.0; 3]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LovaszSoftmax(Sorted);

impl LovaszSoftmax {
    /// Of the classes of the whole batch that occur.
    pub fn new() -> Self {
        let name = "Lovasz-Softmax";
        LovaszSoftmax(Sorted { name, softmax: true, batch: true, present: true, ignore_index: None })
    }

    /// Whether a region is a class of the whole batch, and not of each sample. Defaults to true.
    pub fn batch(mut self, batch: bool) -> Self {
        self.0.batch = batch;
        self
    }

    /// Whether classes that do not occur count as well. Defaults to false.
    pub fn all_classes(mut self, all: bool) -> Self {
        self.0.present = !all;
        self
    }

    /// The index of positions that count for nothing, if there is one.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.0.ignore_index = index.into();
        self
    }
}

macro_rules! sorted_loss {
    ($($loss:ident: $name:literal,)*) => {$(
        impl Default for $loss {
            fn default() -> Self {
                $loss::new()
            }
        }
        class_methods!($loss);
        impl Loss for $loss {
            const NAME: &'static str = $name;
        }
        impl Run for $loss {
            fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
                for_request!(request, |r| sorted::run(self.0, r))
            }
        }
        kernel!($loss, |loss| Kernel::sorted(&loss.0));
    )*};
}
sorted_loss! {
    LovaszHinge: "Lovasz hinge",
    LovaszSoftmax: "Lovasz-Softmax",
}
