//! 38, 39, 41 and 53: sizes at which sums, counts and indices overflow.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;
use half::f16;

/// 38: without the factor each gradient is 1e-8, which f16 does not have.
#[test]
fn an_f16_gradient_of_a_large_mean_survives_if_scaled() {
    let n = 1 << 24;
    let run = |grad_output: f32| {
        let mut buffer = vec![f16::from_f32(0.1); n];
        let term = GanLoss::new(GanMode::LeastSquares).fake_term();
        let value = term.call_in_place(&mut buffer).grad_output(grad_output).forward_backward(Mean).unwrap();
        close("value", value, 0.01, 1e-5);
        assert!(buffer.iter().all(|g| *g == buffer[0]));
        buffer[0].to_f32()
    };
    assert_eq!(run(1.0), 0.0);
    assert!((run(65536.0) / 7.8e-4 - 1.0).abs() < 2e-3);
}

/// 39: a count of rows in f16 would be infinite.
#[test]
fn f16_rows_beyond_65504_have_a_finite_mean_and_gradients() {
    let rows = 70_000;
    let mut logits: Vec<f16> = (0..2 * rows).map(|i| f16::from_f32((i % 2) as f32)).collect();
    let call =
        CrossEntropy::new().call_in_place(&mut logits, Target::U8(&[0; 70_000]), (rows, 2)).grad_output(70_000.0);
    let value = call.forward_backward(Mean).unwrap();
    close("value", value, 1f64.exp().ln_1p(), 1e-6);
    assert!(logits.chunks(2).all(|g| (g[1].to_f32() - 0.7310586).abs() < 4e-4 && g[0] == -g[1]));
}

/// 41
#[test]
fn a_sum_of_many_equal_numbers_is_exact_to_a_millionth() {
    let n = 1 << 25;
    let sum = GanLoss::new(GanMode::Wasserstein).fake_term().forward(&vec![0.1f32; n], Sum).unwrap();
    let want = n as f64 * f64::from(0.1f32);
    assert!((f64::from(sum) / want - 1.0).abs() <= 1e-6, "expected {want}, got {sum}");
}

/// 53: one row of 2^31 + 1 classes, and as many elements in rows, whose last target is the last element.
#[test]
#[ignore = "needs 5 GB of memory"]
fn the_last_of_more_than_2_to_the_31_elements_has_its_gradient() {
    let classes = 1 << 16;
    for (rows, classes) in [(1, (1usize << 31) + 1), ((1 << 15) + 1, classes)] {
        let mut logits = vec![f16::ZERO; rows * classes];
        let mut target = vec![0i64; rows];
        target[rows - 1] = classes as i64 - 1;
        let call = CrossEntropy::new().call_in_place(&mut logits, Target::I64(&target), (rows, classes));
        let value = call.grad_output(1024.0).forward_backward(Sum).unwrap();
        close("value", value, rows as f64 * (classes as f64).ln(), 1e-6);
        let (last, each) = (logits[rows * classes - 1].to_f32(), f16::from_f32(1024.0 / classes as f32));
        assert_eq!(last, -1024.0);
        assert!(logits[(rows - 1) * classes..rows * classes - 1].iter().all(|&g| g == each));
        assert_eq!(logits[0].to_f32(), if rows == 1 { each.to_f32() } else { -1024.0 });
    }
    let n = (1 << 31) + 1;
    let mut scores = vec![f16::ZERO; n];
    scores[n - 1] = f16::ONE;
    let term = GanLoss::new(GanMode::LeastSquares).fake_term();
    assert_eq!(term.forward_backward_in_place(&mut scores, Sum), Ok(1.0));
    assert!(scores[n - 1].to_f32() == 2.0 && scores[..n - 1].iter().all(|&g| g == f16::ZERO));
    scores[n - 1] = f16::ONE;
    // The region of two thirds of the elements is one half over, the others are empty.
    let value = DiceLoss::new().smooth(0.0).unwrap().forward(&scores[..n - 1], Target::U8(&[]), [0, 1, 0], Mean);
    assert!(value.is_err(), "an input that its shape does not hold");
    let shape = [1, 1, n];
    let target = vec![0u8; n];
    let value = DiceLoss::new().forward_backward_in_place(&mut scores, Target::U8(&target), shape, Sum).unwrap();
    close("Dice", value, 1.0 - 3.0 / (n as f64 + 2.0), 1e-6);
}
