//! What `benches/instructions.py` counts the instructions of: one fused call of each loss, in a function of its own, on one thread.
//!
//! Under callgrind, which knows no AVX-512, it is the AVX2 code that runs. Clocks of shared machines swing by a factor of three; the
//! number of instructions does not.

use std::hint::black_box;

use fused_loss::*;
use half::bf16;

/// Elements: few enough to stay on the calling thread.
const N: usize = 1 << 15;
const ROWS: (usize, usize) = (32, 1024);
const COLUMNS: [usize; 3] = [4, 16, 512];
const REGIONS: [usize; 3] = [2, 4, 4096];

/// What every call has.
pub struct Buffers<T> {
    logits: Vec<T>,
    labels: Vec<T>,
    probabilities: Vec<T>,
    log_probabilities: Vec<T>,
    classes: Vec<i64>,
    /// What is reported of `ROWS`.
    rows: [Vec<f32>; 4],
    argmax: Vec<i64>,
    grad: Vec<T>,
}

impl<T: Element> Buffers<T> {
    fn new() -> Self {
        // Weyl's sequence is random enough, and the same everywhere.
        let unit = |i: usize| ((i as u32).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 24) as f32;
        let make = |number: &dyn Fn(f32) -> f32| (0..N).map(|i| T::from_f32(number(unit(i)))).collect();
        Buffers {
            logits: make(&|u| 16.0 * u - 8.0),
            labels: make(&|u| f32::from(u32::from(u * 997.0 % 1.0 < 0.5) as u8)),
            probabilities: make(&|u| 0.02 + 0.96 * u),
            log_probabilities: make(&|u| -8.0 * u - 0.02),
            classes: (0..2048).map(|i| i % 16).collect(),
            rows: std::array::from_fn(|_| vec![0.0; ROWS.0]),
            argmax: vec![0; ROWS.0],
            grad: vec![T::default(); N],
        }
    }
}

/// A function for each case, whose name callgrind shows, and all of them by name.
macro_rules! cases {
    ($($name:ident: $t:ty, |$b:ident| $call:expr;)*) => {
        $(#[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($b: &mut Buffers<$t>) {
            black_box($call.expect("the call is right"));
        })*

        fn run(slower: Option<&str>) {
            $(let mut buffers = Buffers::<$t>::new();
            // Whatever is done once in a process is done.
            let _ = Mse::new().forward(&buffers.logits, &buffers.labels, Reduction::Mean);
            $name(&mut buffers);
            if slower == Some(stringify!($name)) {
                $name(&mut buffers);
            })*
        }
    };
}
const MEAN: Reduction = Reduction::Mean;
cases! {
    case_mse: f32, |b| Mse::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_mse_bf16: bf16, |b| Mse::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_mae: f32, |b| Mae::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_huber: f32, |b| Huber::default().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_bce: f32, |b| Bce::new().forward_backward(&b.probabilities, &b.labels, MEAN, &mut b.grad);
    case_bce_with_logits: f32, |b| BceWithLogits::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_bce_with_logits_bf16: bf16, |b| BceWithLogits::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_hinge: f32, |b| Hinge::new().labels(HingeLabels::ZeroOne).forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_kl_div: f32, |b| KlDiv::new().forward_backward(&b.log_probabilities, &b.probabilities, MEAN, &mut b.grad);
    case_focal: f32, |b| SigmoidFocal::new().forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_gan: f32, |b| GanLoss::default().generator_term().call(&b.logits).forward_backward(MEAN, &mut b.grad);
    case_sum: f32, |b| (0.7 * Mse::new() + 0.3 * Mae::new()).forward_backward(&b.logits, &b.labels, MEAN, &mut b.grad);
    case_margin_ranking: f32, |b| MarginRanking::new(0.5).expect("a margin").call(&b.logits, &b.labels, &b.probabilities).forward_backward(MEAN, &mut b.grad);
    case_cross_entropy: f32, |b| CrossEntropy::new().forward_backward(&b.logits, &b.classes[..32], ROWS, MEAN, &mut b.grad);
    case_cross_entropy_bf16: bf16, |b| CrossEntropy::new().forward_backward(&b.logits, &b.classes[..32], ROWS, MEAN, &mut b.grad);
    case_cross_entropy_report: f32, |b| {
        let [log_prob, entropy, lse, hit] = &mut b.rows;
        let call = CrossEntropy::new().call(&b.logits, &b.classes[..32], ROWS).log_prob(log_prob).entropy(entropy);
        call.lse(lse).hit(hit).argmax(&mut b.argmax).forward_backward(MEAN, &mut b.grad)
    };
    case_cross_entropy_columns: f32, |b| CrossEntropy::new().forward_backward(&b.logits, &b.classes, COLUMNS, MEAN, &mut b.grad);
    case_cross_entropy_dense: f32, |b| CrossEntropy::new().forward_backward(&b.logits, &b.probabilities, ROWS, MEAN, &mut b.grad);
    case_distillation: f32, |b| Distillation::new().forward_backward(&b.logits, &b.probabilities, ROWS, MEAN, &mut b.grad);
    case_distillation_columns: f32, |b| Distillation::new().forward_backward(&b.logits, &b.probabilities, COLUMNS, MEAN, &mut b.grad);
    case_jsd_columns: f32, |b| Jsd::new().forward_backward(&b.logits, &b.probabilities, COLUMNS, MEAN, &mut b.grad);
    case_softmax_focal_columns: f32, |b| SoftmaxFocal::new().forward_backward(&b.logits, &b.classes, COLUMNS, MEAN, &mut b.grad);
    case_dice_softmax: f32, |b| DiceLoss::new().softmax().forward_backward(&b.logits, &b.classes, COLUMNS, MEAN, &mut b.grad);
    case_dice_cross_entropy: f32, |b| (DiceLoss::new().softmax() + CrossEntropy::new()).forward_backward(&b.logits, &b.classes, COLUMNS, MEAN, &mut b.grad);
    case_dice_softmax_focal: f32, |b| (DiceLoss::new().softmax() + SoftmaxFocal::new()).forward_backward(&b.logits, &b.classes, COLUMNS, MEAN, &mut b.grad);
    case_dice: f32, |b| DiceLoss::new().sigmoid().forward_backward(&b.logits, &b.labels, REGIONS, MEAN, &mut b.grad);
}

fn main() {
    // `instructions --slower case_mse` does one of them twice, as something that must be noticed.
    let mut arguments = std::env::args().skip_while(|a| a != "--slower").skip(1);
    run(arguments.next().as_deref());
}
