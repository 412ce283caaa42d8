//! The losses beyond the ten families: where their formulas, taken literally, go wrong.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

#[test]
fn log_cosh_is_right_far_out_and_close_by() {
    let mut grad = [0.0; 1];
    let mut at = |e: f32| (LogCosh::new().forward_backward(&[e], &[0.0], Sum, &mut grad).unwrap(), grad[0]);
    for e in [1e-12f32, 1e-4, 0.1, 0.999, 1.0, 1.5, 30.0, 400.0] {
        let want = (2.0 * (0.5 * f64::from(e)).sinh().powi(2)).ln_1p();
        let (value, slope) = at(e);
        let (mirrored, down) = at(-e);
        if want.is_finite() {
            assert!((f64::from(value) / want - 1.0).abs() < 1e-6, "{e}: {value} {want}");
        }
        assert_eq!((mirrored, down), (value, -slope));
        assert!((f64::from(slope) - f64::from(e).tanh()).abs() <= 2e-7 * f64::from(slope));
    }
    assert_eq!(at(0.0), (0.0, 0.0));
    assert_eq!(at(3e38).0, 3e38);
    assert_eq!(at(INF), (INF, 1.0));
    assert!(at(NAN).0.is_nan() && at(NAN).1.is_nan());
}

#[test]
fn the_pinball_at_its_tip_has_no_gradient() {
    let mut grad = [7.0; 3];
    let loss = Quantile::new(0.25).unwrap();
    assert_eq!(loss.forward_backward(&[1.0, -0.0, 2.0], &[1.0, 0.0, 0.0], Sum, &mut grad), Ok(1.5));
    assert_eq!(grad, [0.0, 0.0, 0.75]);
    assert!(loss.forward_backward(&[NAN, 0.0, 0.0], &[0.0; 3], Sum, &mut grad).unwrap().is_nan());
    assert!(grad[0].is_nan() && grad[1] == 0.0);
}

#[test]
fn a_count_of_zero_costs_its_rate() {
    let mut grad = [7.0; 2];
    let loss = PoissonNll::new();
    assert_eq!(loss.forward_backward(&[-INF, 0.0], &[0.0, 0.0], Sum, &mut grad), Ok(1.0));
    assert_eq!(grad, [0.0, 1.0]);
    let rates = loss.log_input(false).eps(0.0).unwrap();
    assert_eq!(rates.forward_backward(&[0.0, 3.0], &[0.0, 0.0], Sum, &mut grad), Ok(3.0));
    assert_eq!(grad, [1.0, 1.0]);
    // An impossible rate stays one, and so does NaN.
    assert!(rates.forward(&[-1.0f32], &[1.0], Sum).unwrap().is_nan());
    assert!(loss.forward(&[NAN], &[0.0], Sum).unwrap().is_nan());
    assert!(loss.full(true).forward(&[0.0], &[NAN], Sum).unwrap().is_nan());
}

#[test]
fn a_variance_that_has_shrunk_to_nothing_can_grow_again() {
    let (mut grad, mut grad_variance) = ([0.0; 2], [0.0; 2]);
    let nll = GaussianNll::new().eps(0.5).unwrap();
    nll.forward_backward(&[2.0, 0.0], &[0.0; 2], &[0.0, 0.0], Sum, &mut grad, &mut grad_variance).unwrap();
    assert_eq!((grad, grad_variance), ([4.0, 0.0], [-7.0, 1.0]));
    let value =
        nll.forward_backward(&[2.0, 0.0], &[0.0; 2], &[-1.0, 1.0], Mean, &mut grad, &mut grad_variance).unwrap();
    assert!(value.is_nan() && grad[0].is_nan() && grad_variance[0].is_nan());
    assert_eq!((grad[1], grad_variance[1]), (0.0, 0.25));
    let nan = nll.forward(&[0.0], &[0.0], &[NAN], Mean).unwrap();
    assert!(nan.is_nan());
}

/// A third tensor through every way of calling, and on the device that is always there.
#[test]
fn gradients_of_three_tensors_go_where_they_are_asked() {
    fn check<T: Element>() {
        let mut random = Random(3);
        let n = 37;
        let mut draw = |low, high| to::<T>(&random.floats(n, low, high));
        let (x, t, v) = (draw(-2.0, 2.0), draw(-2.0, 2.0), draw(0.25, 2.0));
        let nll = GaussianNll::new();
        let [mut gx, mut gt, mut gv] = [(); 3].map(|()| vec![T::default(); n]);
        let call = nll.call(&x, &t, &v).grad_target(&mut gt).grad_third(&mut gv);
        let value = call.forward_backward(Sum, &mut gx).unwrap();
        let back: Vec<T> = gt.iter().map(|g| T::from_f32(-g.to_f32())).collect();
        same_bits("the target's", &gx, &back);

        let (mut buffer, mut again) = (x.clone(), vec![T::default(); n]);
        let call = nll.call_in_place(&mut buffer, &t, &v).grad_third(&mut again);
        assert_eq!(call.forward_backward(Sum).unwrap().to_bits(), value.to_bits());
        assert_eq!((bits(&buffer), bits(&again)), (bits(&gx), bits(&gv)));

        let device = Device::cpu();
        let [x, t, v] = [&x, &t, &v].map(|x| device.buffer(x).unwrap());
        let [mut on_x, mut on_v] = [(); 2].map(|()| device.zeros::<T>(n).unwrap());
        let on = nll.on(&device);
        assert_eq!(on.forward_backward(&x, &t, &v, Sum, &mut on_x, &mut on_v).unwrap().to_bits(), value.to_bits());
        assert_eq!((bits(&on_x.to_vec().unwrap()), bits(&on_v.to_vec().unwrap())), (bits(&gx), bits(&gv)));
        assert_eq!(on.forward(&x, &t, &v, Sum).unwrap().to_bits(), value.to_bits());
    }
    every_dtype!(check);
}

#[test]
fn a_score_far_on_the_wrong_side_costs_what_it_is() {
    let mut grad = [0.0; 3];
    let loss = SoftMargin::new().forward_backward(&[500.0, -INF, -1e-3], &[-1.0, -1.0, 1.0], Sum, &mut grad);
    assert!((loss.unwrap() - 500.0 - 0.693_647_3).abs() < 1e-4);
    assert_eq!(grad[..2], [1.0, 0.0]);
}

/// Where the edges coincide each box has half of what pulls at them; nothing but eps is left.
#[test]
fn boxes_that_are_equal_stay_where_they_are() {
    let boxes = [0.0f32, 0.0, 1.0, 1.5];
    for loss in [BoxIou::iou(), BoxIou::giou(), BoxIou::diou(), BoxIou::ciou()] {
        let (mut grad, mut grad_target) = ([7.0; 4], [7.0; 4]);
        let call = loss.call(&boxes, &boxes, (1, 4)).grad_target(&mut grad_target);
        let value = call.forward_backward(Sum, &mut grad).unwrap();
        assert!(value.abs() < 2e-7 && grad.iter().chain(&grad_target).all(|g| g.abs() < 5e-7), "{value} {grad:?}");
    }
}

#[test]
fn boxes_that_do_not_touch_are_pulled_by_what_is_added() {
    let (far, target) = ([0.0f32, 0.0, 1.0, 1.0], [5.0f32, 0.0, 6.0, 1.0]);
    let mut grad = [7.0; 4];
    assert_eq!(BoxIou::iou().forward_backward(&far, &target, (1, 4), Sum, &mut grad), Ok(1.0));
    assert_eq!(grad, [0.0; 4]);
    for loss in [BoxIou::giou(), BoxIou::diou(), BoxIou::ciou()] {
        assert!(loss.forward_backward(&far, &target, (1, 4), Sum, &mut grad).unwrap() > 1.0);
        assert!(grad[0] + grad[2] < 0.0, "{grad:?}");
    }
    let nan = BoxIou::ciou().forward(&[NAN, 0.0, 1.0, 1.0], &target, (1, 4), Sum).unwrap();
    assert!(nan.is_nan());
}

#[test]
fn a_focal_region_that_is_right_has_no_gradient() {
    let (p, mut grad) = ([1.0f32, 0.0], [7.0; 2]);
    for gamma in [0.5, 2.0] {
        let loss = TverskyLoss::default().focal(gamma).unwrap();
        assert_eq!(loss.forward_backward(&p, &p, [1, 1, 2], Sum, &mut grad), Ok(0.0));
        assert_eq!(grad, [0.0; 2]);
    }
}

#[test]
fn a_class_that_one_side_rules_out_is_fine() {
    let (student, teacher) = ([0.0f32, -INF, 1.0], [0.5f32, 1.0, -INF]);
    let (mut grad, mut grad_teacher) = ([7.0; 3], [7.0; 3]);
    for beta in [0.1, 0.5, 0.9] {
        let call = Jsd::new().beta(beta).unwrap();
        let call = call.call(&student, &teacher, (1, 3)).grad_target(&mut grad_teacher);
        assert!(call.forward_backward(Sum, &mut grad).unwrap() > 0.0);
        assert!(grad.iter().chain(&grad_teacher).all(|g| g.is_finite()), "{grad:?} {grad_teacher:?}");
        assert!(grad[1] == 0.0 && grad_teacher[2] == 0.0);
    }
    let reverse = Jsd::new().beta(1.0).unwrap();
    assert_eq!(reverse.forward(&student, &teacher, (1, 3), Sum), Ok(INF));
}

#[test]
fn a_label_of_neither_kind_leaves_its_row_alone() {
    let (x, t) = ([NAN, 1.0, 1.0, 0.0], [1.0, INF, 0.0, 1.0]);
    let (mut grad, mut grad_target) = ([7.0; 4], [7.0; 4]);
    let cosine = CosineEmbedding::default();
    let mut run = |labels: &[f32; 2]| {
        let value = cosine.forward_backward(&x, &t, labels, (2, 2), Sum, &mut grad, &mut grad_target);
        (value.unwrap(), grad, grad_target)
    };
    // The second row is at the margin, where the gradient is 0.
    assert_eq!(run(&[0.0, -1.0]), (0.0, [0.0; 4], [0.0; 4]));
    for label in [1.0, -1.0] {
        let (value, grad, grad_target) = run(&[label, 1.0]);
        assert!(value.is_nan() && grad[..2].iter().chain(&grad_target[..2]).all(|g| g.is_nan()));
        assert_eq!((&grad[2..], &grad_target[2..]), (&[0.0, -1.0][..], &[-1.0, 0.0][..]));
    }
}

#[test]
fn a_row_of_zeros_has_a_finite_gradient() {
    let (mut grad, mut grad_target) = ([7.0; 2], [7.0; 2]);
    let cosine = CosineEmbedding::default();
    let value = cosine.forward_backward(&[0.0, 0.0], &[3.0, 4.0], &[1.0], (1, 2), Sum, &mut grad, &mut grad_target);
    assert_eq!((value, grad_target), (Ok(1.0), [0.0, 0.0]));
    assert!((grad[0] + 6e5).abs() < 1.0 && (grad[1] + 8e5).abs() < 1.0, "{grad:?}");
}

/// Rows of an image: features on axis 1, positions behind them; and on the device that is always there.
#[test]
fn labels_of_rows_go_where_their_rows_are() {
    let (x, t) = ([1.0, 0.0, 0.0, 2.0], [2.0, 3.0, 0.0, 0.0]); // features (1, 0), (0, 2) against (2, 0), (3, 0)
    let labels = [1.0, -1.0];
    let mut losses = [7.0; 2];
    let cosine = CosineEmbedding::new(-0.5).unwrap();
    cosine.call(&x, &t, &labels, [1, 2, 2]).forward_unreduced(&mut losses).unwrap();
    assert!(losses[0].abs() < 1e-6 && (losses[1] - 0.5).abs() < 1e-6, "{losses:?}");

    let (mut grad, mut grad_target) = ([7.0; 4], [7.0; 4]);
    let value = cosine.forward_backward(&x, &t, &labels, [1, 2, 2], Mean, &mut grad, &mut grad_target).unwrap();
    let device = Device::cpu();
    let [x, t] = [x, t].map(|x| device.buffer(&x).unwrap());
    let labels = device.buffer(&labels).unwrap();
    let [mut on_x, mut on_t] = [(); 2].map(|()| device.zeros::<f32>(4).unwrap());
    let on = cosine.on(&device);
    assert_eq!(on.forward_backward(&x, &t, &labels, [1, 2, 2], Mean, &mut on_x, &mut on_t), Ok(value));
    assert_eq!((on_x.to_vec().unwrap(), on_t.to_vec().unwrap()), (grad.to_vec(), grad_target.to_vec()));
    assert_eq!(on.forward(&x, &t, &labels, [1, 2, 2], Mean), Ok(value));
}

#[test]
fn a_triplet_that_is_far_enough_apart_has_no_gradient() {
    let triplet = TripletMargin::new().eps(0.0).unwrap();
    let run = |a: [f32; 2], p: [f32; 2], n: [f32; 2]| {
        let [mut on_a, mut on_p, mut on_n] = [[7.0f32; 2]; 3];
        let value = triplet.forward_backward(&a, &p, &n, (1, 2), Sum, &mut on_a, &mut on_p, &mut on_n).unwrap();
        (value, [on_a, on_p, on_n])
    };
    // At the margin, and beyond it; infinitely far is far enough.
    assert_eq!(run([0.0, 0.0], [3.0, 4.0], [6.0, 0.0]), (0.0, [[0.0; 2]; 3]));
    assert_eq!(run([0.0, 0.0], [3.0, 4.0], [60.0, 0.0]), (0.0, [[0.0; 2]; 3]));
    assert_eq!(run([0.0, 0.0], [3.0, 4.0], [INF, 0.0]), (0.0, [[0.0; 2]; 3]));
    // A distance of zero has no direction.
    assert_eq!(run([1.0, 2.0], [1.0, 2.0], [1.0, 2.0]), (1.0, [[0.0; 2]; 3]));
    let (value, [on_a, on_p, on_n]) = run([1.0, 2.0], [1.0, 2.0], [1.0, 2.5]);
    assert_eq!((value, on_a, on_p, on_n), (0.5, [0.0, 1.0], [0.0; 2], [0.0, -1.0]));
    let (value, grads) = run([NAN, 2.0], [1.0, 2.0], [1.0, 2.5]);
    assert!(value.is_nan() && grads.as_flattened().iter().all(|g| g.is_nan()));
}

/// The negative is nearer to the positive than to the anchor; and on the device that is always there.
#[test]
fn a_negative_close_to_the_positive_is_pushed_away_from_that() {
    let (a, p, n) = ([0.0f32, 0.0], [0.0f32, 4.0], [0.0f32, 5.0]);
    let triplet = TripletMargin::new().eps(0.0).unwrap().swap(true);
    let [mut on_a, mut on_p, mut on_n] = [[7.0f32; 2]; 3];
    let value = triplet.forward_backward(&a, &p, &n, (1, 2), Mean, &mut on_a, &mut on_p, &mut on_n).unwrap();
    assert_eq!((value, on_a, on_p, on_n), (4.0, [0.0, -1.0], [0.0, 2.0], [0.0, -1.0]));

    let device = Device::cpu();
    let [a, p, n] = [a, p, n].map(|x| device.buffer(&x).unwrap());
    let [mut da, mut dp, mut dn] = [(); 3].map(|()| device.zeros::<f32>(2).unwrap());
    let on = triplet.on(&device);
    assert_eq!(on.forward_backward(&a, &p, &n, (1, 2), Mean, &mut da, &mut dp, &mut dn), Ok(value));
    assert_eq!([da, dp, dn].map(|x| x.to_vec().unwrap()), [on_a, on_p, on_n].map(|x| x.to_vec()));
    assert_eq!(on.forward(&a, &p, &n, (1, 2), Mean), Ok(value));
}
