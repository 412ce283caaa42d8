//! 49 and 52: adversarial losses.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;

/// 49: the numbers are eighths, so that the shift rounds nothing.
#[test]
fn relativistic_average_ignores_a_shift_and_its_gradients_sum_to_zero() {
    let mut random = Random(49);
    let mut eighths = |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(64) as f32 / 8.0 - 4.0).collect() };
    for (n, m) in [(1, 1), (32, 64), (1000, 37)] {
        let (real, fake) = (eighths(n), eighths(m));
        let run = |shift: f32| {
            let moved = |x: &[f32]| x.iter().map(|x| x + shift).collect::<Vec<_>>();
            let (mut on_real, mut on_fake) = (vec![0.0; n], vec![0.0; m]);
            let value =
                RelativisticAverage::new().discriminator(&moved(&real), &moved(&fake), &mut on_real, &mut on_fake);
            (value.unwrap(), [on_real, on_fake].concat())
        };
        let (value, grad) = run(0.0);
        for shift in [1.0, -64.0, 1000.0] {
            let (moved, moved_grad) = run(shift);
            close(&format!("value, moved by {shift}"), moved, value.into(), 1e-6);
            grad.iter().zip(moved_grad).for_each(|(&a, b)| close("gradient", b, a.into(), 1e-6));
        }
        let (sum, size) = grad.iter().fold((0.0, 0.0), |(s, a), &g| (s + f64::from(g), a + f64::from(g.abs())));
        assert!(f64::abs(sum) <= 1e-6 * size, "{n} {m}: {sum} of {size}");
    }
}

#[test]
fn relativistic_average_scales_and_accumulates() {
    let (real, fake) = ([1.0f32, -0.5, 0.25], [0.5, -2.0]);
    let run = |loss: RelativisticAverage, fill: f32| {
        let (mut on_real, mut on_fake) = ([fill; 3], [fill; 2]);
        let value = loss.generator(&real, &fake, &mut on_real, &mut on_fake).unwrap();
        (value, [on_real.to_vec(), on_fake.to_vec()].concat())
    };
    let (value, grad) = run(RelativisticAverage::new(), 7.0);
    let scaled = run(RelativisticAverage::new().grad_output(65536.0), 7.0);
    assert_eq!(scaled, (value, grad.iter().map(|g| 65536.0 * g).collect()));
    let accumulated = run(RelativisticAverage::new().accumulate(), 7.0);
    assert_eq!(accumulated, (value, grad.iter().map(|g| 7.0 + g).collect()));
    assert_eq!(RelativisticAverage::new().generator_forward(&real, &fake), value);
}

/// 32
#[test]
fn relativistic_average_of_an_empty_batch_is_nan() {
    let some = [1.0f32, 2.0];
    for (real, fake) in [(&some[..], &[][..]), (&[], &some), (&[], &[])] {
        assert!(RelativisticAverage::new().discriminator_forward(real, fake).is_nan());
        let (mut on_real, mut on_fake) = (vec![7.0; real.len()], vec![7.0; fake.len()]);
        let value = RelativisticAverage::new().discriminator(real, fake, &mut on_real, &mut on_fake);
        assert!(value.unwrap().is_nan());
    }
}

/// `1 / norm` is beyond f32 there, and what it multiplies is not: the gradient is a direction.
#[test]
fn the_gradient_penalty_of_the_smallest_norms_has_a_direction() {
    let penalty = GradientPenalty::wgan_gp(10.0).unwrap();
    for scale in [1e-42f32, 1e-40, 1e-36, 1e-20] {
        let g = [3.0 * scale, 0.0, -4.0 * scale];
        let wide = g.map(f64::from);
        let norm = wide.iter().map(|g| g * g).sum::<f64>().sqrt();
        let mut grad = [f32::NAN; 3];
        let value = penalty.forward_backward(&g, (1, 3), Reduction::Sum, &mut grad).unwrap();
        close("the value", value, 10.0 * (norm - 1.0).powi(2), 1e-6);
        for (got, g) in grad.into_iter().zip(wide) {
            close(&format!("{scale:e}"), got, 20.0 * (norm - 1.0) * (g / norm), 1e-6);
        }
    }
}

/// 52
#[test]
fn the_gradient_penalty_is_finite_where_the_gradient_is_zero() {
    fn check<T: Element>() {
        let (zero, mut grad) = (to::<T>(&[0.0; 40]), to::<T>(&[7.0; 40]));
        let penalty =
            GradientPenalty::wgan_gp(10.0).unwrap().forward_backward(&zero, (2, 20), Mean, &mut grad).unwrap();
        assert_eq!((penalty, from(&grad)), (10.0, vec![0.0; 40]));
        let penalty = GradientPenalty::r1(10.0).unwrap().forward_backward(&zero, (2, 20), Mean, &mut grad).unwrap();
        assert_eq!((penalty, from(&grad)), (0.0, vec![0.0; 40]));
    }
    every_dtype!(check);
    let mut grad = [7.0f32; 2];
    GradientPenalty::wgan_gp(10.0).unwrap().forward_backward(&[1e-30, 0.0], (1, 2), Sum, &mut grad).unwrap();
    assert_eq!(grad, [-20.0, 0.0], "the norm of numbers whose squares f32 does not have");
}

#[test]
fn both_players_scale_and_accumulate() {
    let (real, fake) = ([1.0f32, -0.5, 0.25], [0.5, -2.0]);
    for mode in [GanMode::NonSaturating, GanMode::Minimax, GanMode::LeastSquares, GanMode::Wasserstein, GanMode::Hinge]
    {
        let run = |gan: GanLoss, fill: f32| {
            let (mut on_real, mut on_fake, mut of_g) = ([fill; 3], [fill; 2], [fill; 2]);
            let d = gan.discriminator(&real, &fake, Mean, &mut on_real, &mut on_fake).unwrap();
            let g = gan.generator(&fake, Mean, &mut of_g).unwrap();
            ([d, g], [&on_real[..], &on_fake, &of_g].concat())
        };
        let gan = GanLoss::new(mode);
        let (values, grad) = run(gan, 7.0);
        assert_eq!(
            run(gan.grad_output(65536.0), 7.0),
            (values, grad.iter().map(|g| 65536.0 * g).collect()),
            "{mode:?}"
        );
        assert_eq!(run(gan.accumulate(), 7.0), (values, grad.iter().map(|g| 7.0 + g).collect()), "{mode:?}");
        assert_eq!(gan.discriminator_forward(&real, &fake, Mean), Ok(values[0]));
        assert_eq!(gan.generator_forward(&fake, Mean), Ok(values[1]));
    }
}

/// One-sided smoothing, and what each player is scored on.
#[test]
fn the_generator_aims_at_one_whatever_the_real_label() {
    let fake = [0.5f32, -1.0];
    for mode in [GanMode::NonSaturating, GanMode::LeastSquares] {
        let (plain, smoothed) = (GanLoss::new(mode), GanLoss::new(mode).real_label(0.9).unwrap());
        assert_eq!(plain.generator_forward(&fake, Mean), smoothed.generator_forward(&fake, Mean));
        assert_ne!(plain.discriminator_forward(&fake, &fake, Mean), smoothed.discriminator_forward(&fake, &fake, Mean));
    }
}
