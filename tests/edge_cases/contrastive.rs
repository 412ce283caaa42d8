//! InfoNCE in both directions from two calls of cross-entropy, as its page says: value, gradient, and that for the logarithm of the scale.

use super::support::*;
use fused_loss::*;

/// The textbook's, of logits times `scale`.
fn clip(z: &[f64], n: usize, scale: f64) -> f64 {
    let cost = |at: &dyn Fn(usize) -> f64, own: usize| {
        let top = (0..n).map(at).fold(f64::NEG_INFINITY, f64::max);
        (0..n).map(|k| (scale * (at(k) - top)).exp()).sum::<f64>().ln() + scale * (top - at(own))
    };
    let of = |i: usize| cost(&|k| z[i * n + k], i) + cost(&|k| z[k * n + i], i);
    (0..n).map(of).sum::<f64>() / (2 * n) as f64
}

fn slope(f: impl Fn(f64) -> f64) -> f64 {
    let h = 1e-3;
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

#[test]
fn two_cross_entropies_are_a_contrastive_loss() {
    fn check<T: Element>() {
        let mut random = Random(8);
        for n in [1, 2, 7, 20] {
            // As large as those of CLIP, whose scale ends at 100.
            let z = to::<T>(&random.floats(n * n, -20.0, 20.0));
            let diagonal: Vec<u32> = (0..n as u32).collect();
            let (mut grad, mut value, mut on_log_scale) = (vec![T::default(); n * n], 0.0, 0.0);
            for shape in [Shape::from((n, n)), Shape::from([1, n, n])] {
                let (mut log_prob, mut entropy) = (vec![7.0; n], vec![7.0; n]);
                let call = CrossEntropy::new().call(&z, &diagonal, shape).grad_output(0.5).accumulate();
                let call = call.log_prob(&mut log_prob).entropy(&mut entropy);
                value += 0.5 * f64::from(call.forward_backward(Reduction::Mean, &mut grad).unwrap());
                let rows = log_prob.iter().zip(&entropy).map(|(&lp, &h)| -f64::from(lp) - f64::from(h));
                on_log_scale += 0.5 * rows.sum::<f64>() / n as f64;
            }
            let wide: Vec<f64> = from(&z).into_iter().map(f64::from).collect();
            close("value", value as f32, clip(&wide, n, 1.0), 1e-6);
            close("log scale", on_log_scale as f32, slope(|h| clip(&wide, n, h.exp())), 2e-6);
            let want: Vec<f32> = (0..n * n)
                .map(|i| {
                    let moved = |h: f64| wide.iter().enumerate().map(move |(j, z)| z + if i == j { h } else { 0.0 });
                    slope(|h| clip(&moved(h).collect::<Vec<f64>>(), n, 1.0)) as f32
                })
                .collect();
            same("gradient", &grad, &to::<T>(&want), 1.0);
        }
    }
    every_dtype!(check);
}
