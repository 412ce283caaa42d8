//! The same call gives the same bits: again, on any number of threads, at any address.
//!
//! Without optimisation the sizes that wake the thread pool run for one loss of each kind and once on
//! each pool, in release mode for every loss and a hundred times.

#[macro_use]
#[path = "edge_cases/support.rs"]
mod support;

use fused_loss::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use support::*;

const QUICK: bool = cfg!(debug_assertions);

/// Below and above what wakes the thread pool: 2^16 elements, for the regions 2^18, of one region
/// (which is split) or of several (which are dealt out).
const SMALL: [usize; 3] = [3, 7, 50];
const LARGE: [usize; 3] = [4, 18, 1000];
const LARGE_REGIONS: [[usize; 3]; 3] = [[4, 7, 9500], [1, 1, 263_000], [1, 2, 132_000]];

/// Losses that between them run every loop: of elements, rows of classes on the last axis and on axis 1,
/// regions of a sample or of the batch, with and without softmax.
const EACH_KIND: [&str; 7] = [
    "BCE with logits",
    "GAN, least squares",
    "cross-entropy",
    "cross-entropy, dense",
    "Dice, sigmoid",
    "Dice, batch",
    "Dice, softmax, batch",
];

fn sizes(form: Form) -> Vec<[usize; 3]> {
    match form {
        Form::Element => vec![SMALL, LARGE],
        // Both layouts.
        Form::Row => vec![SMALL, [350, 3, 1], LARGE, [500, 150, 1], [9, 9000, 1]],
        Form::Region | Form::BatchRegion | Form::Sample => {
            [&[SMALL][..], &LARGE_REGIONS[..if QUICK { 2 } else { 3 }]].concat()
        }
    }
}

/// Everything that a loss writes, with weights, as bits.
fn outcome<T: Element>(loss: &AnyLoss<T>, data: &Data<T>, weight: &[f32]) -> Vec<u32> {
    let (n, elements) = (weight.len(), data.input.len());
    let (mut losses, mut written) = (vec![0.0; n], vec![]);
    for reduction in [Some(Reduction::WeightedMean), None] {
        let (mut grad, mut grad_target) = (vec![T::default(); elements], vec![T::default(); elements]);
        let verb = match reduction {
            Some(reduction) => Verb::ForwardBackward(reduction, &mut grad),
            None => Verb::UnreducedBackward(weight, &mut losses, &mut grad),
        };
        let job = Job {
            weight: Some(weight),
            grad_target: loss.grad_target.then_some(&mut grad_target[..]),
            ..data.job(verb)
        };
        let value = (loss.run)(job).unwrap_or_else(|e| panic!("{}: {e}", loss.name));
        written.extend([value.to_bits()]);
        written.extend(bits(&grad));
        written.extend(bits(&grad_target));
        if QUICK && elements > 10_000 {
            return written;
        }
    }
    written.extend(bits(&losses));
    written
}

/// Runs the check for every loss and small sizes, and for large ones with some losses, or in release
/// mode with all.
fn every_case<T: Element>(some_large: bool, check: impl Fn(&AnyLoss<T>, &Data<T>, &[f32])) {
    let mut random = Random(100);
    for loss in losses::<T>() {
        for dims in sizes(loss.form) {
            let small = dims.iter().product::<usize>() < 10_000;
            if small || !QUICK || some_large && EACH_KIND.contains(&loss.name) {
                let (data, weight) = (loss.data(&mut random, dims), random.floats(loss.losses(dims), 0.5, 2.0));
                check(&loss, &data, &weight);
            }
        }
    }
}

fn pools() -> [ThreadPool; 3] {
    [1, 2, 7].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

#[test]
fn one_two_and_seven_threads_give_the_same_bits() {
    fn check<T: Element>() {
        let pools = pools();
        every_case::<T>(T::NAME != "bfloat16", |loss, data, weight| {
            let [one, two, seven] = pools.each_ref().map(|pool| pool.install(|| outcome(loss, data, weight)));
            assert!(one == two && two == seven, "{} {:?} {}", loss.name, data.dims, T::NAME);
        });
    }
    every_dtype!(check);
}

#[test]
fn a_hundred_runs_give_the_same_bits() {
    fn check<T: Element>() {
        every_case::<T>(false, |loss, data, weight| {
            let runs = if !QUICK || EACH_KIND.contains(&loss.name) { times(100) } else { 3 };
            let first = outcome(loss, data, weight);
            for run in 1..runs {
                assert!(outcome(loss, data, weight) == first, "{} {:?} {}: run {run}", loss.name, data.dims, T::NAME);
            }
        });
    }
    every_dtype!(check);
}

/// They are sorted, by any number of threads, and take no weights.
#[test]
fn lovasz_gives_the_same_bits() {
    fn check<T: Element>() {
        let (pools, mut random) = (pools(), Random(102));
        for shape in [[2, 3, 700], [1, 2, if QUICK { 3000 } else { 100_000 }]] {
            let [samples, channels, inner] = shape;
            let n = samples * channels * inner;
            // Coarse, so that many errors are equal.
            let logits =
                to::<T>(&random.floats(n, -3.0, 3.0).iter().map(|x| (8.0 * x).round() / 8.0).collect::<Vec<_>>());
            let masks: Vec<T> = (0..n).map(|_| T::from_f32(random.pick(&[0.0, 1.0]))).collect();
            let classes: Vec<u8> = (0..samples * inner).map(|_| random.below(channels) as u8).collect();
            let run = || {
                let (mut first, mut second) = (vec![T::default(); n], vec![T::default(); n]);
                let hinge = LovaszHinge::new().forward_backward(&logits, &masks, shape, Reduction::Mean, &mut first);
                let soft =
                    LovaszSoftmax::new().forward_backward(&logits, &classes, shape, Reduction::Mean, &mut second);
                [vec![hinge.unwrap().to_bits(), soft.unwrap().to_bits()], bits(&first), bits(&second)].concat()
            };
            let first = run();
            for run in pools.iter().map(|pool| pool.install(run)).chain((0..times(10)).map(|_| run())) {
                assert!(run == first, "{shape:?} {}", T::NAME);
            }
        }
    }
    every_dtype!(check);
}

/// It has a skeleton of its own, with two batches.
#[test]
fn relativistic_average_gives_the_same_bits() {
    fn check<T: Element>() {
        let (pools, mut random) = (pools(), Random(101));
        for (n, m, runs) in [(1000, 37, times(100)), (70_000, 66_000, if QUICK { 2 } else { 100 }), (100, 70_000, 2)] {
            let (real, fake) = (to::<T>(&random.floats(n, -3.0, 3.0)), to::<T>(&random.floats(m, -3.0, 3.0)));
            let run = || {
                let (mut on_real, mut on_fake) = (vec![T::default(); n], vec![T::default(); m]);
                let value = RelativisticAverage::new().discriminator(&real, &fake, &mut on_real, &mut on_fake);
                [vec![value.unwrap().to_bits()], bits(&on_real), bits(&on_fake)].concat()
            };
            let first = run();
            for run in pools.iter().map(|pool| pool.install(run)).chain((1..runs).map(|_| run())) {
                assert!(run == first, "{n} {m} {}", T::NAME);
            }
        }
    }
    every_dtype!(check);
}

#[test]
fn misaligned_buffers_give_the_bits_of_aligned_ones() {
    fn check<T: Element>() {
        every_case::<T>(false, |loss, data, _| {
            let aligned = loss.gradient(data, Reduction::Sum);
            for offset in if data.input.len() < 10_000 { vec![1, 2, 3, 4, 5, 8, 15, 17] } else { vec![1] } {
                let moved = misaligned(loss, data, offset);
                let what = format!("{} {:?} {}: {offset} elements off", loss.name, data.dims, T::NAME);
                close(&what, moved.0, aligned.0.into(), if BY_KERNELS { 1e-6 } else { 0.0 });
                same_bits(&what, &moved.1, &aligned.1);
            }
        });
    }
    every_dtype!(check);
}

/// From 8 MiB on gradients are written past the caches, if their address allows it.
#[test]
fn gradients_written_past_the_caches_are_the_same() {
    fn check<T: Element>() {
        let (mut random, rows) = (Random(102), (9 << 20) / size_of::<T>() / 1000);
        for loss in losses::<T>() {
            let cheap = ["MSE", "NLL"].contains(&loss.name);
            if QUICK && (!cheap || T::NAME == "bfloat16") || !cheap && !EACH_KIND.contains(&loss.name) {
                continue;
            }
            for dims in [[rows, 1000, 1], [2, rows / 2, 1000]].into_iter().take(if QUICK { 1 } else { 2 }) {
                let data = loss.data(&mut random, dims);
                let (value, grad) = loss.gradient(&data, Reduction::Mean);
                let mut in_place = data.input.clone();
                let other = (loss.run)(data.job(Verb::InPlace(Reduction::Mean, &mut in_place))).unwrap();
                assert_eq!(other.to_bits(), value.to_bits(), "{} {dims:?}", loss.name);
                assert!(bits(&in_place) == bits(&grad), "{} {dims:?} {}: in place", loss.name, T::NAME);
                let aligned = loss.gradient(&data, Reduction::Sum);
                // By sixteen bytes, of which a cache line has four; and by less.
                for offset in [0, 1, 2, 3].map(|quarters| quarters * 16 / size_of::<T>()).into_iter().chain([3]) {
                    let moved = misaligned(&loss, &data, offset);
                    assert!(bits(&moved.1) == bits(&aligned.1), "{} {dims:?} {}: {offset} off", loss.name, T::NAME);
                }
            }
        }
    }
    every_dtype!(check);
}

/// They wait for the next vector where a buffer begins within a cache line, and nothing beside the buffer is touched.
#[test]
fn gradients_of_three_tensors_and_of_sums_are_written_past_the_caches_too() {
    const OUTSIDE: f32 = 77.0;

    /// The gradients, in the middle of buffers that begin so many elements later than they would; with `added` they are added to zeros,
    /// which does not go past the caches.
    fn grads<T: Element, const N: usize>(
        n: usize,
        offset: usize,
        added: bool,
        run: &dyn Fn([&mut [T]; N], bool) -> f32,
    ) -> (f32, [Vec<f32>; N]) {
        let mut all: [Vec<T>; N] = std::array::from_fn(|_| vec![T::from_f32(OUTSIDE); offset + n + 50]);
        let inside = all.each_mut().map(|all| &mut all[offset..offset + n]);
        let inside = inside.map(|inside| {
            inside.fill(T::from_f32(if added { 0.0 } else { f32::NAN }));
            inside
        });
        let value = run(inside, added);
        let all = all.map(|all| all.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        for all in &all {
            assert!(all[..offset].iter().chain(&all[offset + n..]).all(|&x| x == OUTSIDE));
        }
        (value, all.map(|all| all[offset..offset + n].to_vec()))
    }

    fn same<T: Element, const N: usize>(what: &str, n: usize, run: &dyn Fn([&mut [T]; N], bool) -> f32) {
        let (value, added) = grads(n, 0, true, run);
        let quarters = [1, 0, 2, 3].map(|quarters| quarters * 16 / size_of::<T>());
        for offset in quarters.into_iter().chain([3]).take(if QUICK { 1 } else { 5 }) {
            let (other, streamed) = grads(n, offset, false, run);
            assert_eq!(value.to_bits(), other.to_bits(), "{what} {}: {offset} off", T::NAME);
            // Equal numbers: a zero that is added to a zero loses its sign.
            assert!(added == streamed, "{what} {}: {offset} off", T::NAME);
        }
    }

    fn check<T: Element>() {
        if QUICK && T::NAME == "float16" {
            return;
        }
        // Not a whole number of blocks, pairs or vectors.
        let n = (9 << 20) / size_of::<T>() + 17;
        let mut random = Random(103);
        let (x, t) = (to::<T>(&random.floats(n, -3.0, 3.0)), to::<T>(&random.floats(n, 0.0, 1.0)));
        let var = to::<T>(&random.floats(n, 0.5, 2.0));
        same("Gaussian NLL", n, &|[grad, grad_target, grad_third]: [&mut [T]; 3], add| {
            let call = GaussianNll::new().call(&x, &t, &var).grad_target(grad_target).grad_third(grad_third);
            let call = if add { call.accumulate() } else { call };
            call.forward_backward(Reduction::Mean, grad).unwrap()
        });
        let bce_focal = BceWithLogits::new() + 0.5 * SigmoidFocal::new();
        let sums = [
            ("MSE and MAE", 0.5 * Mse::new() + 2.0 * Mae::new()),
            ("MAE and MSE", 2.0 * Mae::new() + 0.5 * Mse::new()),
            ("BCE and focal", bce_focal),
            ("three distances", Mse::new() + Mae::new() + Huber::new(0.5).unwrap()),
            ("four", bce_focal + Mse::new() + Mae::new()),
        ];
        for (what, sum) in sums.iter().take(if QUICK { 1 } else { 5 }) {
            same(what, n, &|[grad]: [&mut [T]; 1], add| {
                let call = sum.call(&x, &t);
                let call = if add { call.accumulate() } else { call };
                call.forward_backward(Reduction::Mean, grad).unwrap()
            });
        }
    }
    every_dtype!(check);
}
