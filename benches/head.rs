//! The language-model head beside its parts: three matrix products of the whole, with the cross-entropy between them.
//!
//! ```text
//! cargo bench --features head --bench head
//! ```
//!
//! The parts keep their logits from call to call; the head allocates its chunk each time.
//!
//! `cargo bench --features head --bench head -- cuda` does the same on a GPU, with cuBLAS, timed by its events; a number after it is how
//! many rounds there are.

use std::time::Duration;

use criterion::Criterion;
use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::{CrossEntropy, Reduction};

#[cfg(feature = "cuda")]
#[path = "head/cuda.rs"]
mod cuda;

fn main() {
    #[cfg(feature = "cuda")]
    if std::env::args().any(|word| word == "cuda") {
        return cuda::main();
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    for shape in [(1024, 512, 32000), (512, 1024, 50257)] {
        bench(&mut criterion, shape);
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, (tokens, hidden, classes): (usize, usize, usize)) {
    let mut random = fastrand::Rng::with_seed(5);
    let mut numbers = |n: usize, size: f32| -> Vec<f32> { (0..n).map(|_| (random.f32() - 0.5) * size).collect() };
    let (input, weight) = (numbers(tokens * hidden, 1.0), numbers(classes * hidden, 0.2));
    let target: Vec<i64> = (0..tokens as i64).map(|i| i * 31 % classes as i64).collect();
    let (mut grad_input, mut grad_weight) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
    let mut logits = vec![0.0; tokens * classes];
    let mut group = criterion.benchmark_group(format!("head/{tokens}x{hidden}x{classes}"));
    let mut values = [None; 2];
    group.bench_function("apart", |bencher| {
        bencher.iter(|| {
            product(&mut logits, &input, [tokens, hidden], [hidden, 1], &weight, classes, [1, hidden]);
            let (reduction, shape) = (Reduction::Mean, (tokens, classes));
            let value = CrossEntropy::new().forward_backward_in_place(&mut logits, &target, shape, reduction);
            product(&mut grad_weight, &logits, [classes, tokens], [1, classes], &input, hidden, [hidden, 1]);
            product(&mut grad_input, &logits, [tokens, classes], [classes, 1], &weight, hidden, [hidden, 1]);
            values[0] = Some(value.expect("the shapes agree"));
        });
    });
    for mib in [32, 256] {
        group.bench_function(format!("budget of {mib} MiB"), |bencher| {
            bencher.iter(|| {
                let head = LinearCrossEntropy::new(CrossEntropy::new()).budget(mib << 20);
                let grads = LinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: None };
                let value = head.call(&input, &weight, &target, (tokens, hidden, classes));
                values[1] = Some(value.forward_backward(Reduction::Mean, grads).expect("the budget suffices"));
            });
        });
    }
    if let [Some(apart), Some(head)] = values {
        assert!((apart - head).abs() <= 1e-5 * apart.abs(), "{apart}, by the head {head}");
    }
}

/// `out = a b` of row-major `out` of `columns`, `a` of this size, and strides from row to row and column to column.
fn product(
    out: &mut [f32],
    a: &[f32],
    [m, k]: [usize; 2],
    a_by: [usize; 2],
    b: &[f32],
    columns: usize,
    b_by: [usize; 2],
) {
    assert_eq!([out.len(), a.len(), b.len()], [m * columns, m * k, k * columns]);
    let ([a_rs, a_cs], [b_rs, b_cs]) = (a_by.map(|s| s as isize), b_by.map(|s| s as isize));
    let (out, a, b) = (out.as_mut_ptr(), a.as_ptr(), b.as_ptr());
    let threads = gemm::Parallelism::Rayon(0);
    // SAFETY: the sizes are those of the slices.
    unsafe {
        let by = columns as isize;
        gemm::gemm(
            m, columns, k, out, 1, by, false, a, a_cs, a_rs, b, b_cs, b_rs, 1.0, 1.0, false, false, false, threads,
        );
    }
}
