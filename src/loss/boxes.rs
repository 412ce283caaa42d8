use crate::call::{AnyRequest, Loss, Run, class_methods, for_request};
use crate::cpu::row::{Row, RowTarget};
use crate::cpu::rowwise::{self, Rowwise};
use crate::cpu::simd::Machine;
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::params::BoxIouParams;

/// Overlap of bounding boxes: one minus their intersection over union, with what makes boxes that do not touch find each other.
///
/// Boxes are `(x1, y1, x2, y2)` with `x1 < x2` and `y1 < y2`. With `I` the area of the intersection, `U` that of the union, `C` that of
/// the smallest box around both, `D` its squared diagonal, `d` the squared distance of the centres:
///
/// | | value of a pair | PyTorch (torchvision) |
/// |---|---|---|
/// | [`iou`](Self::iou) | `l = 1 - I / (U + eps)` | `1 - box_iou` |
/// | [`giou`](Self::giou) | adds `(C - U) / (C + eps)` | `generalized_box_iou_loss` |
/// | [`diou`](Self::diou) | adds `d / (D + eps)` | `distance_box_iou_loss` |
/// | [`ciou`](Self::ciou) | adds `alpha v` to DIoU, `v = 4 / pi^2 (atan(w_t / h_t) - atan(w_p / h_p))^2`, `alpha = v / (1 - I / (U + eps) + v + eps)` | `complete_box_iou_loss` |
///
/// | | |
/// |---|---|
/// | shapes | input and target `(boxes, 4)` |
/// | gradient | for the input, on request for the target; `alpha` is a constant, as in torchvision |
/// | mean | divides by the boxes |
/// | default | `eps = 1e-7` |
///
/// Source: Rezatofighi et al. 2019 (GIoU), Zheng et al. 2020 (DIoU, CIoU). Edge cases: where two edges coincide each box has half of the
/// gradient, as in PyTorch, so that a prediction that equals its target has none from the overlap. Boxes that do not touch have the
/// gradient of what is added alone. Corners in the wrong order are taken as they are: the gradient of CIoU's ratio goes with
/// `1 / (w^2 + h^2)` and can be a hundred times as large there, so that a network which says corners itself may never learn from it. One
/// that says a centre and the logarithms of width and height does (`examples/more/boxes.rs`), and GIoU and DIoU learn from either.
///
/// ```
/// use fused_loss::{BoxIou, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (boxes, targets) = ([0.0f32, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]);
/// let mut grad = [0.0; 4];
/// let loss = BoxIou::iou().forward_backward(&boxes, &targets, (1, 4), Reduction::Mean, &mut grad)?;
/// assert!((loss - 2.0 / 3.0).abs() < 1e-6);
/// assert!(grad[2] < 0.0); // the right edge should go right
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxIou(BoxIouParams);

impl BoxIou {
    fn new([hull, centre, aspect]: [u32; 3]) -> Self {
        BoxIou(BoxIouParams { eps: 1e-7, hull, centre, aspect })
    }

    /// Intersection over union alone.
    pub fn iou() -> Self {
        Self::new([0, 0, 0])
    }

    /// Generalised: with the share of the surrounding box that is of neither.
    pub fn giou() -> Self {
        Self::new([1, 0, 0])
    }

    /// With the distance of the centres.
    pub fn diou() -> Self {
        Self::new([0, 1, 0])
    }

    /// Complete: DIoU with the difference of the aspect ratios.
    pub fn ciou() -> Self {
        Self::new([0, 1, 1])
    }

    /// Added to denominators. A normal number above zero; defaults to 1e-7.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        self.0.eps = check_option("eps", "a finite normal number above zero", eps, eps.is_normal() && eps > 0.0)?;
        Ok(self)
    }
}

impl Loss for BoxIou {
    const NAME: &'static str = "box IoU";
}
impl Run for BoxIou {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        for_request!(request, |r| rowwise::run(*self, r))
    }
}
class_methods!(BoxIou);

/// One axis of two boxes, the prediction from `p1` to `p2` and the target from `t1` to `t2`.
#[derive(Clone, Copy)]
struct Axis {
    size_p: f32,
    size_t: f32,
    overlap: f32,
    hull: f32,
    /// From the target's centre to the prediction's.
    centre: f32,
    /// The prediction's shares of the edges of the overlap: 1, 0, or half of an edge that they have in common.
    share1: f32,
    share2: f32,
}

/// The derivatives of a loss for what an axis has.
#[derive(Clone, Copy, Default)]
struct Slopes {
    size_p: f32,
    size_t: f32,
    overlap: f32,
    hull: f32,
    centre: f32,
}

fn share(mine: f32, other: f32) -> f32 {
    if mine > other {
        1.0
    } else if mine < other {
        0.0
    } else {
        0.5
    }
}

impl Axis {
    fn new([p1, p2]: [f32; 2], [t1, t2]: [f32; 2]) -> Self {
        let (inner1, outer1) = if p1 > t1 { (p1, t1) } else { (t1, p1) };
        let (inner2, outer2) = if p2 < t2 { (p2, t2) } else { (t2, p2) };
        Axis {
            size_p: p2 - p1,
            size_t: t2 - t1,
            overlap: inner2 - inner1,
            hull: outer2 - outer1,
            centre: 0.5 * ((p1 - t1) + (p2 - t2)),
            share1: share(p1, t1),
            share2: share(-p2, -t2),
        }
    }

    /// For the edges of prediction and target.
    fn edges(&self, d: Slopes) -> ([f32; 2], [f32; 2]) {
        let (s1, s2, half) = (self.share1, self.share2, 0.5 * d.centre);
        let of_p = [
            half - s1 * d.overlap - (1.0 - s1) * d.hull - d.size_p,
            half + s2 * d.overlap + (1.0 - s2) * d.hull + d.size_p,
        ];
        let of_t = [
            -half - (1.0 - s1) * d.overlap - s1 * d.hull - d.size_t,
            -half + (1.0 - s2) * d.overlap + s2 * d.hull + d.size_t,
        ];
        (of_p, of_t)
    }
}

impl BoxIouParams {
    /// The value of two boxes, and its derivatives along both axes.
    fn eval(&self, x: Axis, y: Axis) -> (f32, Slopes, Slopes) {
        let eps = self.eps;
        let touch = x.overlap > 0.0 && y.overlap > 0.0;
        let shared = if touch { x.overlap * y.overlap } else { 0.0 };
        let union = x.size_p * y.size_p + x.size_t * y.size_t - shared;
        let inv = 1.0 / (union + eps);
        // Of the union, to which the sizes add and from which what is shared is taken.
        let mut on_union = shared * inv * inv;
        let on_shared = -inv;
        let mut value = ((union - shared) + eps) * inv;
        let (mut dx, mut dy) = (Slopes::default(), Slopes::default());
        let miss = value;
        if self.hull != 0 {
            let hull = x.hull * y.hull;
            let inv = 1.0 / (hull + eps);
            let rest = hull - union;
            value += rest * inv;
            on_union -= inv;
            let on_hull = (union + eps) * inv * inv;
            dx.hull += on_hull * y.hull;
            dy.hull += on_hull * x.hull;
        }
        if self.centre != 0 {
            let inv = 1.0 / ((x.hull * x.hull + y.hull * y.hull) + eps);
            let share = (x.centre * x.centre + y.centre * y.centre) * inv;
            value += share;
            dx.centre = 2.0 * x.centre * inv;
            dy.centre = 2.0 * y.centre * inv;
            dx.hull -= 2.0 * share * inv * x.hull;
            dy.hull -= 2.0 * share * inv * y.hull;
        }
        if self.aspect != 0 {
            let angle = (x.size_t / y.size_t).atan() - (x.size_p / y.size_p).atan();
            let v = FOUR_BY_PI_SQUARED * angle * angle;
            let alpha = v / (miss + v + eps);
            value += alpha * v;
            let slope = 2.0 * FOUR_BY_PI_SQUARED * alpha * angle;
            let of_p = slope / (x.size_p * x.size_p + y.size_p * y.size_p);
            let of_t = slope / (x.size_t * x.size_t + y.size_t * y.size_t);
            dx.size_p -= of_p * y.size_p;
            dy.size_p += of_p * x.size_p;
            dx.size_t += of_t * y.size_t;
            dy.size_t -= of_t * x.size_t;
        }
        let on_overlap = if touch { on_shared - on_union } else { 0.0 };
        dx.overlap = on_overlap * y.overlap;
        dy.overlap = on_overlap * x.overlap;
        dx.size_p += on_union * y.size_p;
        dy.size_p += on_union * x.size_p;
        dx.size_t += on_union * y.size_t;
        dy.size_t += on_union * x.size_t;
        (value, dx, dy)
    }
}

const FOUR_BY_PI_SQUARED: f32 = 0.405_284_73;

impl Rowwise for BoxIou {
    const NAME: &'static str = <BoxIou as Loss>::NAME;
    const INDEX: bool = false;
    const GRAD_TARGET: bool = true;
    const CLASSES: Option<usize> = Some(4);

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Dense(_) = row.target else { return 0.0 };
        let near = crate::cpu::simd::Part(4);
        let (p, t) = (row.input(s, 0, near, 0.0).to_array(), row.dense(s, 0, near, 0.0).to_array());
        let (x, y) = (Axis::new([p[0], p[2]], [t[0], t[2]]), Axis::new([p[1], p[3]], [t[1], t[3]]));
        let (value, dx, dy) = self.0.eval(x, y);
        let ((px, tx), (py, ty)) = (x.edges(dx), y.edges(dy));
        let lanes = |x: [f32; 2], y: [f32; 2]| {
            let mut lanes = [0.0; crate::cpu::simd::LANES];
            lanes[..4].copy_from_slice(&[x[0], y[0], x[1], y[1]]);
            s.lanes(&lanes) * row.scale
        };
        row.put_target(s, 0, near, lanes(tx, ty));
        row.put(s, 0, near, lanes(px, py));
        value.into()
    }
}

crate::cuda::kernel::kernel!(BoxIou, |l| Kernel::rows(l, "boxes", "box_iou", l.0));
