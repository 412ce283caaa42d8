//! 33: one element, one more and one less than a vector, misaligned buffers, classes on either axis. The
//! reference is each loss on its own, and the answer the same to the last bit, unless the classes are on
//! axis 1, where they may be added in another order.

use super::support::*;
use fused_loss::*;

const SIZES: [usize; 15] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 1023, 1025];

/// The row (element, sample) `r` of the data, on its own, and where its elements were.
fn alone<T: Element>(loss: &AnyLoss<T>, data: &Data<T>, r: usize) -> (Data<T>, Vec<usize>) {
    let [_, classes, inner] = data.dims;
    let (at, dims): (Vec<usize>, _) = match loss.form {
        Form::Element => (vec![r], [1, 1, 1]),
        Form::Row => ((0..classes).map(|k| (r / inner * classes + k) * inner + r % inner).collect(), [1, classes, 1]),
        // With softmax the regions of a sample need each other.
        _ => ((0..classes * inner).map(|i| r * classes * inner + i).collect(), [1, classes, inner]),
    };
    let target = match &data.target {
        Labels::Nothing => Labels::Nothing,
        Labels::Dense(t) => Labels::Dense(at.iter().map(|&i| t[i]).collect()),
        Labels::Index(t) if loss.form == Form::Row => Labels::Index(vec![t[r]]),
        Labels::Index(t) => Labels::Index(t[r * inner..(r + 1) * inner].to_vec()),
    };
    (Data { dims, input: at.iter().map(|&i| data.input[i]).collect(), target }, at)
}

#[test]
fn the_smallest_and_oddest_sizes_and_addresses_give_what_single_losses_give() {
    fn check<T: Element>() {
        let mut random = Random(33);
        for (i, loss) in losses::<T>().into_iter().enumerate() {
            // Every other one for kernels, by turns.
            let sizes =
                SIZES.into_iter().skip(if BY_KERNELS { i % 2 } else { 0 }).step_by(if BY_KERNELS { 2 } else { 1 });
            let shapes: Vec<[usize; 3]> = match loss.form {
                Form::Element => sizes.map(|n| [1, 1, n]).collect(),
                Form::Row => {
                    sizes.flat_map(|n| [[2, n, 1], [n.min(130), 3, 1], [2, 3, n.min(130)], [2, n, 2]]).collect()
                }
                Form::Region | Form::Sample => sizes.flat_map(|n| [[2, 3, n], [2, n.min(130), 2]]).collect(),
                // Sums over samples are rounded in another order.
                Form::BatchRegion => continue,
            };
            for dims in shapes {
                let data = loss.data(&mut random, dims);
                let (value, grad) = loss.gradient(&data, Reduction::Sum);
                let units = if loss.form == Form::Region { dims[0] } else { loss.losses(dims) };
                let (mut sum, mut size) = (0.0, 0.0);
                // A few of them are enough for kernels, which are slow on the host.
                let each = if BY_KERNELS { units.div_ceil(3).max(1) } else { 1 };
                for r in (0..units).step_by(each) {
                    let (single, at) = alone(&loss, &data, r);
                    let (value, single) = loss.gradient(&single, Reduction::Sum);
                    sum += f64::from(value);
                    size += f64::from(value.abs());
                    let of_it: Vec<T> = at.iter().map(|&i| grad[i]).collect();
                    let what = format!("{} {dims:?}: loss {r}", loss.name);
                    if loss.form == Form::Row && dims[2] != 1 {
                        // p (ln(p / q) - kl): the logarithms are up to 5 here, and may be almost the divergence.
                        let noise = if loss.name.starts_with("JSD") { 1e-6 } else { 1e-7 };
                        same_but_for(&what, &of_it, &single, 1.0, noise);
                    } else {
                        same_bits(&what, &of_it, &single);
                    }
                }
                let error = (f64::from(value) - sum).abs();
                assert!(each > 1 || error <= 1e-6 * size, "{} {dims:?}: expected {sum}, got {value}", loss.name);
                let (moved, moved_grad) = misaligned(&loss, &data, 1 + random.below(20));
                let what = format!("{} {dims:?} moved", loss.name);
                close(&what, moved, value.into(), if BY_KERNELS { 1e-6 } else { 0.0 });
                same_bits(&what, &moved_grad, &grad);
            }
        }
    }
    every_dtype!(check);
}

#[test]
fn the_layouts_of_classes_are_transposes_of_each_other() {
    let mut random = Random(330);
    for loss in losses::<f32>().iter().filter(|loss| loss.form == Form::Row) {
        for dims in [[1, 5, 40], [3, 17, 16], [2, 300, 3], [2, 9000, 2]] {
            let first = loss.data(&mut random, dims);
            let [outer, classes, inner] = first.dims;
            let transpose = |x: &[f32]| -> Vec<f32> {
                let at = |i: usize| (i / (classes * inner) * classes + i % classes) * inner + i / classes % inner;
                (0..x.len()).map(|i| x[at(i)]).collect()
            };
            let target = match &first.target {
                Labels::Dense(t) => Labels::Dense(transpose(t)),
                other => other.clone(),
            };
            let last = Data { dims: [outer * inner, classes, 1], input: transpose(&first.input), target };
            let (a, a_grad) = loss.gradient(&first, Reduction::Mean);
            let (b, b_grad) = loss.gradient(&last, Reduction::Mean);
            close(loss.name, a, b.into(), 1e-6);
            same(&format!("{} {outer} {classes} {inner}", loss.name), &transpose(&a_grad), &b_grad, 1.0);
        }
    }
}
