//! What C can do, done from Rust: every loss against the crate's own methods, and what must be refused.

use std::ffi::{CStr, c_void};

use fl::*;
use half::{bf16, f16};

use crate::call::*;
use crate::handle::*;
use crate::losses::{classes::*, elementwise::*, embeddings::*, gan::*, likelihoods::*, preferences::*, regions::*};
use crate::status::{fl_status::*, *};

/// A CPU handle that is freed.
struct Cpu(*mut fl_handle);

impl Cpu {
    fn new() -> Self {
        let mut handle = std::ptr::null_mut();
        assert_eq!(unsafe { fl_cpu(&raw mut handle) }, FL_OK);
        Cpu(handle)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        unsafe { fl_destroy(self.0) };
    }
}

fn new_call() -> fl_call {
    let mut call = std::mem::MaybeUninit::uninit();
    unsafe {
        fl_call_init(call.as_mut_ptr());
        call.assume_init()
    }
}

fn read<X>(x: &[X]) -> fl_in {
    fl_in { data: x.as_ptr().cast(), len: x.len() }
}

fn write<X>(x: &mut [X]) -> fl_out {
    fl_out { data: x.as_mut_ptr().cast(), len: x.len() }
}

fn message() -> String {
    unsafe { CStr::from_ptr(fl_last_error()) }.to_str().unwrap().to_owned()
}

/// Numbers between -2 and 2.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

const ROWS: usize = 6;
const CLASSES: usize = 5;
const N: usize = ROWS * CLASSES;
/// As a shape of regions, `(2, 3, 5)`.
const REGIONS: [usize; 3] = [2, 3, 5];

/// Runs a loss by its C function, and by its own methods, in one storage type: value and gradient must be the same bits.
fn compare<L: Loss, T: Element>(
    what: &str,
    loss: L,
    c: &dyn Fn(*const fl_handle, *const fl_call) -> fl_status,
    (input, target, third): (&[f32], Given<'_>, Option<&[f32]>),
    shape: Option<Shape>,
    losses: usize,
) {
    let cpu = Cpu::new();
    let input: Vec<T> = input.iter().map(|&x| T::from_f32(x)).collect();
    let dense: Vec<T> = if let Given::Dense(t) = target { t.iter().map(|&x| T::from_f32(x)).collect() } else { vec![] };
    let mut call = new_call();
    call.dtype = [("float32", 0), ("float16", 1), ("bfloat16", 2)].iter().find(|(name, _)| *name == T::NAME).unwrap().1;
    call.input = read(&input);
    let of = match target {
        Given::Nothing => {
            call.target_kind = fl_target::FL_TARGET_NONE as i32;
            Target::Nothing
        }
        Given::Dense(_) => {
            call.target = read(&dense);
            Target::Dense(&dense)
        }
        Given::Index(index) => {
            (call.target, call.target_kind) = (read(index), fl_target::FL_TARGET_I64 as i32);
            Target::I64(index)
        }
    };
    let third: Option<Vec<T>> = third.map(|third| third.iter().map(|&x| T::from_f32(x)).collect());
    if let Some(third) = &third {
        call.third = read(third);
    }
    if let Some(shape) = shape {
        // Regions, and the samples of generalised Dice.
        (call.classes, call.outer) = (shape.classes(), if shape.rows() == 10 { 2 } else { shape.rows() });
        call.inner = shape.rows() / call.outer;
    }
    let weight = numbers(losses, 9);
    // FL_MEAN, FL_SUM, FL_SUM_OVER and FL_NONE.
    for reduction in [1, 2, 5, 0] {
        for weighted in [false, true] {
            let name = format!("{what}, {}, reduction {reduction}, weighted {weighted}", T::NAME);
            call.weight = if weighted { read(&weight) } else { read::<f32>(&[]) };
            if !weighted {
                call.weight.data = std::ptr::null();
            }
            (call.reduction, call.denominator, call.grad_output) = (reduction, 3.5, 128.0);
            let count = if reduction == 0 { losses } else { 1 };
            let (mut value, mut grad) = (vec![f32::NAN; count], vec![T::from_f32(f32::NAN); input.len()]);
            (call.value, call.grad_input) = (write(&mut value), write(&mut grad));
            assert_eq!(c(cpu.0, &raw const call), FL_OK, "{name}: {}", message());

            let mut rust = launch_call(loss, &input, of, shape).grad_output(128.0);
            if weighted {
                rust = rust.weight(&weight);
            }
            if let Some(third) = &third {
                rust = rust.third(third);
            }
            let (mut expected, mut slopes) = (vec![f32::NAN; count], vec![T::from_f32(f32::NAN); input.len()]);
            let ones = vec![1.0; losses];
            let done = match reduction {
                0 => rust.forward_backward_unreduced(&ones, &mut expected, &mut slopes).map(|()| expected[0]),
                1 => rust.forward_backward(Reduction::Mean, &mut slopes),
                2 => rust.forward_backward(Reduction::Sum, &mut slopes),
                _ => rust.forward_backward(Reduction::SumOver(3.5), &mut slopes),
            };
            expected[0] = done.unwrap();
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let wide = |x: &[T]| x.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&value), bits(&expected), "{name}");
            assert_eq!(wide(&grad), wide(&slopes), "{name}");
        }
    }
}

#[derive(Clone, Copy)]
enum Given<'a> {
    Nothing,
    Dense(&'a [f32]),
    Index(&'a [i64]),
}

/// Input, target, and a third tensor, if there is one.
struct Of<'a>((&'a [f32], Given<'a>, Option<&'a [f32]>));

impl<'a> From<(&'a Vec<f32>, Given<'a>)> for Of<'a> {
    fn from((input, target): (&'a Vec<f32>, Given<'a>)) -> Self {
        Of((input, target, None))
    }
}

impl<'a> From<(&'a Vec<f32>, Given<'a>, &'a [f32])> for Of<'a> {
    fn from((input, target, third): (&'a Vec<f32>, Given<'a>, &'a [f32])) -> Self {
        Of((input, target, Some(third)))
    }
}

/// A call of a loss of any kind.
fn launch_call<'a, L: Loss, T: Element>(
    loss: L,
    input: &'a [T],
    target: Target<'a, T>,
    shape: Option<Shape>,
) -> Call<'a, L, T> {
    fl::raw::call(loss, input, target, shape)
}

/// Options that are set, beside the loss that they make.
macro_rules! check {
    ($function:ident, $loss:expr, $given:expr, $shape:expr, $losses:expr) => {
        check!(@ stringify!($function), $loss, |h, c| unsafe { $function(h, c) }, $given, $shape, $losses)
    };
    ($function:ident($options:ident { $($field:ident: $value:expr),* }), $loss:expr, $given:expr, $shape:expr, $losses:expr) => {{
        #[allow(unused_mut)]
        let mut options = <$options as crate::structs::Versioned>::defaults();
        $(options.$field = $value;)*
        check!(@ stringify!($function), $loss, |h, c| unsafe { $function(h, &raw const options, c) }, $given, $shape, $losses)
    }};
    (@ $name:expr, $loss:expr, $c:expr, $given:expr, $shape:expr, $losses:expr) => {{
        let given = Of::from($given).0;
        compare::<_, f32>($name, $loss, &$c, given, $shape, $losses);
        compare::<_, f16>($name, $loss, &$c, given, $shape, $losses);
        compare::<_, bf16>($name, $loss, &$c, given, $shape, $losses);
    }};
}

/// With every other number one that arithmetic makes something special of, in f32 and, as it is rounded, in 16 bits.
fn at_the_edges(mut x: Vec<f32>) -> Vec<f32> {
    let edges = [f32::INFINITY, f32::NAN, -3.3e38, 1e-40, f32::NEG_INFINITY, 65504.0, -0.0, -6e-8];
    x.iter_mut().step_by(2).zip(edges.iter().cycle()).for_each(|(x, &edge)| *x = edge);
    x
}

#[test]
fn every_loss_is_the_one_it_says() {
    every_loss(numbers(N, 1));
}

#[test]
fn every_loss_is_the_one_it_says_of_numbers_at_the_edges() {
    every_loss(at_the_edges(numbers(N, 1)));
}

fn every_loss(x: Vec<f32>) {
    let t = numbers(N, 2);
    let p: Vec<f32> = x.iter().map(|x| 1.0 / (1.0 + x.exp())).collect();
    let q: Vec<f32> = t.iter().map(|x| 1.0 / (1.0 + x.exp())).collect();
    let hard: Vec<f32> = t.iter().map(|&t| f32::from(t > 0.0)).collect();
    let signs: Vec<f32> = t.iter().map(|&t| t.signum()).collect();
    let index = [0i64, 4, 2, -100, 1, 3];
    let (real, fake) = (Given::Dense(&t), Given::Nothing);

    check!(fl_mse(fl_mse_options {}), Mse::new(), (&x, real), None, N);
    check!(fl_mse(fl_mse_options { half: 1 }), Mse::half(), (&x, real), None, N);
    check!(fl_mae, Mae::new(), (&x, real), None, N);
    check!(fl_huber(fl_huber_options { delta: 0.5 }), Huber::new(0.5).unwrap(), (&x, real), None, N);
    check!(fl_smooth_l1(fl_smooth_l1_options { beta: 0.5 }), SmoothL1::new(0.5).unwrap(), (&x, real), None, N);
    check!(fl_bce(fl_bce_options {}), Bce::new(), (&p, Given::Dense(&q)), None, N);
    let bce = Bce::new().epsilon(0.1).unwrap().label_smoothing(0.2).unwrap();
    check!(fl_bce(fl_bce_options { epsilon: 0.1, label_smoothing: 0.2 }), bce, (&p, Given::Dense(&q)), None, N);
    let bce = BceWithLogits::new().pos_weight(3.0).unwrap().label_smoothing(0.2).unwrap();
    check!(
        fl_bce_with_logits(fl_bce_with_logits_options { pos_weight: 3.0, label_smoothing: 0.2 }),
        bce,
        (&x, Given::Dense(&q)),
        None,
        N
    );
    let labels = HingeLabels::ZeroOne;
    check!(fl_hinge(fl_hinge_options {}), Hinge::new(), (&x, Given::Dense(&signs)), None, N);
    check!(fl_hinge(fl_hinge_options { labels: 1 }), Hinge::new().labels(labels), (&x, Given::Dense(&hard)), None, N);
    let keras = SquaredHinge::new().labels(HingeLabels::Keras);
    check!(fl_squared_hinge(fl_squared_hinge_options { labels: 2 }), keras, (&x, Given::Dense(&hard)), None, N);
    check!(fl_kl_div(fl_kl_div_options {}), KlDiv::new(), (&x, Given::Dense(&q)), None, N);
    check!(fl_kl_div(fl_kl_div_options { log_target: 1 }), KlDiv::new().log_target(true), (&x, real), None, N);
    let kl = KlDivProbs::new().epsilon(0.1).unwrap();
    check!(fl_kl_div_probs(fl_kl_div_probs_options { epsilon: 0.1 }), kl, (&p, Given::Dense(&q)), None, N);
    let focal = SigmoidFocal::new().alpha(0.4).unwrap().gamma(1.5).unwrap();
    check!(
        fl_sigmoid_focal(fl_sigmoid_focal_options { alpha: 0.4, gamma: 1.5 }),
        focal,
        (&x, Given::Dense(&hard)),
        None,
        N
    );
    let focal = SigmoidFocal::new().alpha(None).unwrap();
    check!(fl_sigmoid_focal(fl_sigmoid_focal_options { alpha: -1.0 }), focal, (&x, Given::Dense(&hard)), None, N);

    let rows = Some(Shape::from((ROWS, CLASSES)));
    let ce = CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(0.01).unwrap().softcap(4.0).unwrap();
    check!(
        fl_cross_entropy(fl_cross_entropy_options { label_smoothing: 0.1, z_loss: 0.01, softcap: 4.0 }),
        ce,
        (&x, Given::Index(&index)),
        rows,
        ROWS
    );
    check!(fl_cross_entropy(fl_cross_entropy_options {}), CrossEntropy::new(), (&x, Given::Dense(&q)), rows, ROWS);
    let ce = CrossEntropy::new().ignore_index(2);
    let known = [0i64, 4, 2, 2, 1, 3];
    check!(fl_cross_entropy(fl_cross_entropy_options { ignore_index: 2 }), ce, (&x, Given::Index(&known)), rows, ROWS);
    let ce = CrossEntropyProbs::new().epsilon(0.01).unwrap().label_smoothing(0.1).unwrap().ignore_index(None);
    check!(
        fl_cross_entropy_probs(fl_cross_entropy_probs_options {
            epsilon: 0.01,
            label_smoothing: 0.1,
            has_ignore_index: 0
        }),
        ce,
        (&p, Given::Index(&known)),
        rows,
        ROWS
    );
    check!(
        fl_nll(fl_nll_options { ignore_index: 2 }),
        Nll::new().ignore_index(2),
        (&x, Given::Index(&known)),
        rows,
        ROWS
    );
    check!(fl_categorical_hinge, CategoricalHinge::new(), (&x, Given::Dense(&hard)), rows, ROWS);
    let margin = MultiMargin::new().p(2).unwrap().margin(0.5).unwrap();
    check!(
        fl_multi_margin(fl_multi_margin_options { p: 2, margin: 0.5 }),
        margin,
        (&x, Given::Index(&known)),
        rows,
        ROWS
    );
    let focal = SoftmaxFocal::new().gamma(1.5).unwrap().ignore_index(None);
    check!(
        fl_softmax_focal(fl_softmax_focal_options { gamma: 1.5, has_ignore_index: 0 }),
        focal,
        (&x, Given::Index(&known)),
        rows,
        ROWS
    );
    let distil = Distillation::new().temperature(3.0).unwrap().scale_by_t2(false);
    check!(
        fl_distillation(fl_distillation_options { temperature: 3.0, scale_by_t2: 0 }),
        distil,
        (&x, real),
        rows,
        ROWS
    );

    let regions = Some(Shape::from(REGIONS));
    let dice =
        DiceLoss::new().sigmoid().smooth_nr(0.5).unwrap().smooth_dr(0.25).unwrap().squared_pred(true).jaccard(true);
    check!(
        fl_dice(fl_dice_options { activation: 1, smooth_nr: 0.5, smooth_dr: 0.25, squared_pred: 1, jaccard: 1 }),
        dice,
        (&x, Given::Dense(&hard)),
        regions,
        6
    );
    check!(
        fl_tversky(fl_tversky_options { activation: 2, alpha: 0.3, beta: 0.8 }),
        TverskyLoss::new(0.3, 0.8).unwrap().softmax(),
        (&x, Given::Dense(&hard)),
        regions,
        6
    );

    let modes = [GanMode::NonSaturating, GanMode::Minimax, GanMode::LeastSquares, GanMode::Wasserstein, GanMode::Hinge];
    for (mode, gan) in modes.into_iter().enumerate() {
        let gan = GanLoss::new(gan);
        for (term, of) in [gan.real_term(), gan.fake_term(), gan.generator_term()].into_iter().enumerate() {
            check!(fl_gan(fl_gan_options { mode: mode as i32, term: term as i32 }), of, (&x, fake), None, N);
        }
    }
    let gan = GanLoss::new(GanMode::Probabilities).real_label(0.9).unwrap();
    check!(fl_gan(fl_gan_options { mode: 5, real_label: 0.9 }), gan.real_term(), (&p, fake), None, N);
    check!(fl_relativistic_pair, RelativisticPair, (&x, real), None, N);
    let penalty = GradientPenalty::r1(3.0).unwrap();
    check!(fl_gradient_penalty(fl_gradient_penalty_options { kind: 1, weight: 3.0 }), penalty, (&x, fake), rows, ROWS);
    let penalty = GradientPenalty::wgan_gp(10.0).unwrap();
    check!(fl_gradient_penalty(fl_gradient_penalty_options {}), penalty, (&x, fake), rows, ROWS);
}

#[test]
fn every_loss_beyond_the_ten_families_is_the_one_it_says() {
    every_loss_beyond(numbers(N, 1));
}

#[test]
fn every_loss_beyond_the_ten_families_is_the_one_it_says_of_numbers_at_the_edges() {
    every_loss_beyond(at_the_edges(numbers(N, 1)));
}

fn every_loss_beyond(x: Vec<f32>) {
    let (t, y) = (numbers(N, 2), numbers(N, 3));
    let signs: Vec<f32> = t.iter().map(|t| t.signum()).collect();
    let (p, variance): (Vec<f32>, Vec<f32>) =
        (x.iter().map(|x| 1.0 / (1.0 + x.exp())).collect(), y.iter().map(|y| y * y).collect());
    let hard: Vec<f32> = t.iter().map(|&t| f32::from(t > 0.0)).collect();
    let real = Given::Dense(&t);
    check!(fl_log_cosh, LogCosh::new(), (&x, real), None, N);
    check!(fl_quantile(fl_quantile_options { quantile: 0.9 }), Quantile::new(0.9).unwrap(), (&x, real), None, N);
    check!(fl_soft_margin, SoftMargin::new(), (&x, Given::Dense(&signs)), None, N);
    check!(fl_poisson_nll(fl_poisson_nll_options {}), PoissonNll::new(), (&x, Given::Dense(&hard)), None, N);
    let poisson = PoissonNll::new().log_input(false).full(true).eps(1e-3).unwrap();
    let options = (&p, Given::Dense(&variance));
    check!(fl_poisson_nll(fl_poisson_nll_options { log_input: 0, full: 1, eps: 1e-3 }), poisson, options, None, N);
    let gaussian = GaussianNll::new().full(true).eps(0.1).unwrap();
    check!(
        fl_gaussian_nll(fl_gaussian_nll_options { full: 1, eps: 0.1 }),
        gaussian,
        (&x, real, &variance[..]),
        None,
        N
    );
    let ranking = MarginRanking::new(0.5).unwrap();
    check!(fl_margin_ranking(fl_margin_ranking_options { margin: 0.5 }), ranking, (&x, real, &signs[..]), None, N);
    for (code, variant) in [DpoVariant::Sigmoid, DpoVariant::Hinge, DpoVariant::Ipo].into_iter().enumerate() {
        let loss = Dpo::new(0.5).unwrap().label_smoothing(if code == 0 { 0.1 } else { 0.0 }).unwrap().variant(variant);
        let smoothing = if code == 0 { 0.1 } else { 0.0 };
        check!(
            fl_dpo(fl_dpo_options { beta: 0.5, label_smoothing: smoothing, variant: code as i32 }),
            loss,
            (&x, real, &y[..]),
            None,
            N
        );
    }
    let rows = Some(Shape::from((ROWS, CLASSES)));
    let cosine = CosineEmbedding::new(0.25).unwrap();
    let labels = &signs[..ROWS];
    check!(fl_cosine_embedding(fl_cosine_embedding_options { margin: 0.25 }), cosine, (&x, real, labels), rows, ROWS);
    let triplet = TripletMargin::new().margin(0.5).unwrap().eps(1e-3).unwrap().swap(true);
    check!(
        fl_triplet_margin(fl_triplet_margin_options { margin: 0.5, eps: 1e-3, swap: 1 }),
        triplet,
        (&x, real, &y[..]),
        rows,
        ROWS
    );
    let jsd = Jsd::new().beta(0.25).unwrap().temperature(2.0).unwrap();
    check!(fl_jsd(fl_jsd_options { beta: 0.25, temperature: 2.0 }), jsd, (&x, real), rows, ROWS);
    let boxes: Vec<f32> = (0..7 * 4).map(|i| [0.1, 0.2, 1.1, 1.3][i % 4] + 0.1 * (i / 4) as f32).collect();
    let others: Vec<f32> = boxes.iter().rev().map(|x| 2.0 - x).collect();
    let (of_boxes, shape) = ((&boxes, Given::Dense(&others)), Some(Shape::from((7, 4))));
    for (code, loss) in [BoxIou::iou(), BoxIou::giou(), BoxIou::diou(), BoxIou::ciou()].into_iter().enumerate() {
        let loss = loss.eps(1e-3).unwrap();
        check!(fl_box_iou(fl_box_iou_options { kind: code as i32, eps: 1e-3 }), loss, of_boxes, shape, 7);
    }
    let regions = Some(Shape::from(REGIONS));
    for (code, weight) in [DiceWeight::Square, DiceWeight::Simple, DiceWeight::Uniform].into_iter().enumerate() {
        let dice = GeneralizedDiceLoss::new().softmax().smooth(0.5).unwrap().weight(weight);
        check!(
            fl_generalized_dice(fl_generalized_dice_options {
                activation: 2,
                weight: code as i32,
                smooth_nr: 0.5,
                smooth_dr: 0.5
            }),
            dice,
            (&x, Given::Dense(&hard)),
            regions,
            2
        );
    }
    let focal = TverskyLoss::new(0.3, 0.8).unwrap().focal(0.75).unwrap().sigmoid();
    check!(
        fl_tversky(fl_tversky_options { activation: 1, alpha: 0.3, beta: 0.8, focal: 0.75 }),
        focal,
        (&x, Given::Dense(&hard)),
        regions,
        6
    );
}

/// They take no weights, so that they are by themselves.
#[test]
fn lovasz_is_the_one_it_says() {
    let (cpu, x, shape) = (Cpu::new(), numbers(N, 1), Shape::from(REGIONS));
    let masks: Vec<f32> = numbers(N, 2).iter().map(|&t| f32::from(u8::from(t > 0.0))).collect();
    let index: Vec<i64> = (0..shape.rows()).map(|i| (i % 4) as i64 - i64::from(i % 4 == 3) * 103).collect();
    let (mut value, mut grad, mut want) = ([f32::NAN], vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    let mut call = new_call();
    (call.input, call.target, call.classes, call.outer) = (read(&x), read(&masks), shape.classes(), 2);
    call.inner = shape.rows() / 2;
    (call.value, call.grad_input) = (write(&mut value), write(&mut grad));
    let mut options = <fl_lovasz_hinge_options as crate::structs::Versioned>::defaults();
    for batch in [0, 1] {
        options.batch = batch;
        // SAFETY: the call's buffers are as long as it says.
        assert_eq!(unsafe { fl_lovasz_hinge(cpu.0, &raw const options, &raw const call) }, FL_OK, "{}", message());
        let loss = LovaszHinge::new().batch(batch == 1);
        assert_eq!(loss.forward_backward(&x, &masks, shape, Reduction::Mean, &mut want), Ok(value[0]));
        assert_eq!(grad, want);
    }
    (call.target, call.target_kind) = (read(&index), fl_target::FL_TARGET_I64 as i32);
    let mut options = <fl_lovasz_softmax_options as crate::structs::Versioned>::defaults();
    (options.batch, options.all_classes, options.has_ignore_index) = (0, 1, 1);
    // SAFETY: as above.
    assert_eq!(unsafe { fl_lovasz_softmax(cpu.0, &raw const options, &raw const call) }, FL_OK, "{}", message());
    let loss = LovaszSoftmax::new().batch(false).all_classes(true).ignore_index(-100);
    assert_eq!(loss.forward_backward(&x, &index, shape, Reduction::Mean, &mut want), Ok(value[0]));
    assert_eq!(grad, want);
    let weight = numbers(6, 9);
    call.weight = read(&weight);
    // SAFETY: as above.
    let refused = unsafe { fl_lovasz_softmax(cpu.0, &raw const options, &raw const call) };
    assert_eq!((refused, message()), (FL_ERROR_UNSUPPORTED, "Lovasz-Softmax: a weight is not supported".into()));
}

#[test]
fn a_third_tensor_its_gradient_and_terms() {
    let (cpu, x, t) = (Cpu::new(), numbers(N, 1), numbers(N, 2));
    let variance: Vec<f32> = numbers(N, 3).iter().map(|y| 0.5 + y * y).collect();
    let (mut value, mut grad, mut grad_third) = ([f32::NAN], vec![f32::NAN; N], vec![f32::NAN; N]);
    let mut call = new_call();
    (call.input, call.target, call.third) = (read(&x), read(&t), read(&variance));
    (call.value, call.grad_input, call.grad_third) = (write(&mut value), write(&mut grad), write(&mut grad_third));
    assert_eq!(unsafe { fl_gaussian_nll(cpu.0, std::ptr::null(), &raw const call) }, FL_OK, "{}", message());
    let (mut slopes, mut others) = (vec![f32::NAN; N], vec![f32::NAN; N]);
    let own = GaussianNll::new().forward_backward(&x, &t, &variance, Reduction::Mean, &mut slopes, &mut others);
    assert_eq!((value[0], &grad, &grad_third), (own.unwrap(), &slopes, &others));
    // Without it, with one that is too short, with one where there is none to have, with one that overlaps.
    let run = |call: &fl_call| unsafe { fl_gaussian_nll(cpu.0, std::ptr::null(), call) };
    assert_eq!(run(&fl_call { third: fl_in { data: std::ptr::null(), len: 0 }, ..call }), FL_ERROR_UNSUPPORTED);
    assert_eq!(run(&fl_call { third: read(&variance[..7]), ..call }), FL_ERROR_LENGTH);
    assert_eq!(run(&fl_call { grad_third: fl_out { data: call.grad_third.data, len: 7 }, ..call }), FL_ERROR_LENGTH);
    assert_eq!(run(&fl_call { grad_third: call.grad_input, ..call }), FL_ERROR_MEMORY);
    assert_eq!(message(), "grad_input overlaps grad_third");
    assert_eq!(unsafe { fl_mse(cpu.0, std::ptr::null(), &raw const call) }, FL_ERROR_UNSUPPORTED);
}

#[test]
fn what_a_cross_entropy_reports_of_its_rows() {
    let (cpu, x) = (Cpu::new(), numbers(N, 1));
    let rows = N / 3;
    let classes: Vec<i64> = (0..rows).map(|i| if i == 1 { -100 } else { i as i64 % 3 }).collect();
    let (mut value, mut grad) = ([f32::NAN], vec![f32::NAN; N]);
    let mut floats = [(); 4].map(|()| vec![f32::NAN; rows]);
    let mut argmax = vec![7i64; rows];
    let mut call = new_call();
    (call.input, call.target, call.target_kind) = (read(&x), read(&classes), fl_target::FL_TARGET_I64 as i32);
    (call.outer, call.classes) = (rows, 3);
    (call.value, call.grad_input) = (write(&mut value), write(&mut grad));
    let [log_prob, entropy, lse, hit] = &mut floats;
    (call.log_prob, call.entropy, call.lse, call.hit) = (write(log_prob), write(entropy), write(lse), write(hit));
    call.argmax = write(&mut argmax);
    let run = |call: &fl_call| unsafe { fl_cross_entropy(cpu.0, std::ptr::null(), call) };
    assert_eq!(run(&call), FL_OK, "{}", message());
    let mut slopes = vec![f32::NAN; N];
    let mut own = [(); 4].map(|()| vec![f32::NAN; rows]);
    let mut own_argmax = vec![7i64; rows];
    let [log_prob, entropy, lse, hit] = &mut own;
    let of_loss = CrossEntropy::new()
        .call(&x, &classes, (rows, 3))
        .log_prob(log_prob)
        .entropy(entropy)
        .lse(lse)
        .hit(hit)
        .argmax(&mut own_argmax)
        .forward_backward(Reduction::Mean, &mut slopes);
    assert_eq!((value[0], &grad, &floats, &argmax), (of_loss.unwrap(), &slopes, &own, &own_argmax));
    // Too short, over something else, of a loss that has none, of targets that are no classes.
    let part = |out: fl_out, len| fl_out { len, ..out };
    assert_eq!(run(&fl_call { lse: part(call.lse, rows - 1), ..call }), FL_ERROR_LENGTH);
    assert_eq!(run(&fl_call { argmax: part(call.grad_input, rows), ..call }), FL_ERROR_MEMORY);
    assert_eq!(run(&fl_call { entropy: call.hit, ..call }), FL_ERROR_MEMORY);
    assert_eq!(message(), "entropy overlaps hit");
    assert_eq!(unsafe { fl_nll(cpu.0, std::ptr::null(), &raw const call) }, FL_ERROR_UNSUPPORTED);
    let dense = fl_call { target: read(&slopes), target_kind: fl_target::FL_TARGET_DENSE as i32, ..call };
    assert_eq!(run(&dense), FL_ERROR_UNSUPPORTED);
}

#[test]
fn the_relativistic_average_is_the_one_it_says() {
    let (cpu, real, fake) = (Cpu::new(), numbers(7, 3), numbers(4, 4));
    for generator in [0, 1] {
        let options = fl_relativistic_average_options { generator, ..crate::structs::Versioned::defaults() };
        let (mut value, mut grads) = ([f32::NAN], (vec![f32::NAN; 7], vec![f32::NAN; 4]));
        let mut call = new_call();
        (call.input, call.target, call.value) = (read(&real), read(&fake), write(&mut value));
        (call.grad_input, call.grad_target) = (write(&mut grads.0), write(&mut grads.1));
        assert_eq!(
            unsafe { fl_relativistic_average(cpu.0, &raw const options, &raw const call) },
            FL_OK,
            "{}",
            message()
        );
        let (loss, mut expected) = (RelativisticAverage::new(), (vec![f32::NAN; 7], vec![f32::NAN; 4]));
        let own = match generator {
            0 => loss.discriminator(&real, &fake, &mut expected.0, &mut expected.1),
            _ => loss.generator(&real, &fake, &mut expected.0, &mut expected.1),
        };
        assert_eq!((value[0], grads), (own.unwrap(), expected));
        call.reduction = fl_reduction::FL_SUM as i32;
        assert_eq!(
            unsafe { fl_relativistic_average(cpu.0, &raw const options, &raw const call) },
            FL_ERROR_UNSUPPORTED
        );
    }
}

#[test]
fn in_place_scalars_by_address_and_target_gradients() {
    let (cpu, x, t) = (Cpu::new(), numbers(N, 1), numbers(N, 2));
    let (mut grad, mut grad_target, mut value) = (x.clone(), vec![f32::NAN; N], [f32::NAN]);
    let (scale, divisor) = ([64.0f32], [8.0f32]);
    let mut call = new_call();
    (call.input, call.target, call.value) = (read(&grad), read(&t), write(&mut value));
    (call.grad_input, call.grad_target) = (write(&mut grad), write(&mut grad_target));
    (call.grad_output_at, call.denominator_at) = (scale.as_ptr(), divisor.as_ptr());
    call.reduction = fl_reduction::FL_SUM_OVER as i32;
    assert_eq!(unsafe { fl_mse(cpu.0, std::ptr::null(), &raw const call) }, FL_OK, "{}", message());
    let (mut slopes, mut other) = (vec![f32::NAN; N], vec![f32::NAN; N]);
    let own = Mse::new().call(&x, &t).grad_output(64.0).grad_target(&mut other);
    assert_eq!(value[0], own.forward_backward(Reduction::SumOver(8.0), &mut slopes).unwrap());
    assert_eq!((grad, grad_target), (slopes, other));
}

/// A call of two elements that is right, spoilt in one way: which status, what it says, and that nothing is written.
fn refused(spoil: impl FnOnce(&mut fl_call), status: fl_status, says: &str) {
    let (cpu, x, t) = (Cpu::new(), [1.0f32, 2.0], [0.5f32, 0.5]);
    let (mut value, mut grad) = ([7.0f32], [7.0f32; 2]);
    let mut call = new_call();
    (call.input, call.target) = (read(&x), read(&t));
    (call.value, call.grad_input) = (write(&mut value), write(&mut grad));
    spoil(&mut call);
    assert_eq!(unsafe { fl_mse(cpu.0, std::ptr::null(), &raw const call) }, status, "{says}");
    assert!(message().contains(says), "{}", message());
    assert_eq!((value, grad), ([7.0], [7.0; 2]));
}

#[test]
fn bad_calls_are_refused_and_nothing_is_written() {
    refused(|call| call.input.data = std::ptr::null(), FL_ERROR_NULL, "input: a null pointer");
    refused(|call| call.target.data = std::ptr::null(), FL_ERROR_NULL, "target: a null pointer");
    refused(|call| call.value.data = std::ptr::null_mut(), FL_ERROR_NULL, "value: a null pointer");
    refused(|call| call.target.len = 1, FL_ERROR_LENGTH, "target: expected 2 elements, got 1");
    refused(|call| call.grad_input.len = 1, FL_ERROR_LENGTH, "grad_input: expected 2 elements, got 1");
    refused(|call| call.value.len = 0, FL_ERROR_LENGTH, "value: expected 1 elements, got 0");
    refused(|call| call.input.len = usize::MAX, FL_ERROR_LENGTH, "are too many");
    refused(|call| call.input.data = call.input.data.wrapping_byte_add(1), FL_ERROR_MEMORY, "input: an address");
    refused(|call| call.value.data = call.grad_input.data, FL_ERROR_MEMORY, "value overlaps grad_input");
    refused(|call| call.value.data = call.target.data.cast_mut(), FL_ERROR_MEMORY, "value overlaps target");
    refused(|call| call.grad_input.data = call.target.data.cast_mut(), FL_ERROR_MEMORY, "grad_input overlaps target");
    refused(
        |call| call.grad_input.data = call.input.data.wrapping_byte_add(4).cast_mut(),
        FL_ERROR_MEMORY,
        "grad_input overlaps input",
    );
    refused(|call| call.dtype = 3, FL_ERROR_OPTION, "dtype: 3 is no fl_dtype");
    refused(|call| call.reduction = -1, FL_ERROR_OPTION, "reduction: -1 is no fl_reduction");
    refused(|call| call.target_kind = 9, FL_ERROR_OPTION, "target_kind: 9 is no fl_target");
    refused(|call| call.accumulate = 2, FL_ERROR_OPTION, "accumulate: expected 0 or 1, got 2");
    refused(|call| call.reduction = fl_reduction::FL_SUM_OVER as i32, FL_ERROR_OPTION, "SumOver");
    refused(|call| call.class_weight = call.target, FL_ERROR_UNSUPPORTED, "a class weight is not supported");
    refused(|call| call.grad_outputs = call.target, FL_ERROR_OPTION, "grad_outputs: only with FL_NONE");
    refused(|call| call.target_kind = fl_target::FL_TARGET_U8 as i32, FL_ERROR_UNSUPPORTED, "a target of this kind");
    refused(|call| call.size = 0, FL_ERROR_STRUCT, "was fl_call_init called?");
    refused(|call| call.size = 1 << 20, FL_ERROR_STRUCT, "was fl_call_init called?");
}

#[test]
fn bad_pointers_and_options_are_refused() {
    let (cpu, call) = (Cpu::new(), new_call());
    let none = std::ptr::null();
    unsafe {
        assert_eq!(fl_mae(none, &raw const call), FL_ERROR_NULL);
        assert_eq!(message(), "handle: a null pointer");
        assert_eq!(fl_mae(cpu.0, std::ptr::null()), FL_ERROR_NULL);
        assert_eq!(message(), "fl_call: a null pointer");
        assert_eq!(fl_cpu(std::ptr::null_mut()), FL_ERROR_NULL);
        assert_eq!(fl_check(none), FL_ERROR_NULL);
        assert_eq!(fl_load_all(cpu.0), FL_OK);
        assert_eq!(fl_check(cpu.0), FL_OK);
        assert_eq!(fl_set_stream(cpu.0, std::ptr::null_mut::<c_void>()), FL_OK);
        assert!(fl_describe(none).is_null());
        assert!(CStr::from_ptr(fl_describe(cpu.0)).to_str().unwrap().starts_with("CPU ("));
        fl_call_init(std::ptr::null_mut());
        fl_destroy(std::ptr::null_mut());
        assert_eq!(CStr::from_ptr(fl_status_name(3)), c"FL_ERROR_LENGTH");
        assert_eq!(CStr::from_ptr(fl_status_name(-1)), c"no status");
        let options = fl_huber_options { size: size_of::<fl_huber_options>(), delta: -1.0 };
        assert_eq!(fl_huber(cpu.0, &raw const options, &raw const call), FL_ERROR_OPTION);
        let options = fl_hinge_options { size: size_of::<fl_hinge_options>(), labels: 7 };
        assert_eq!(fl_hinge(cpu.0, &raw const options, &raw const call), FL_ERROR_OPTION);
    }
}

#[test]
fn structs_of_other_versions_are_understood_or_refused() {
    let (cpu, call) = (Cpu::new(), new_call());
    #[repr(C)]
    struct Newer {
        options: fl_huber_options,
        more: u64,
    }
    let size = size_of::<Newer>();
    let mut newer = Newer { options: fl_huber_options { size, delta: 2.0 }, more: 0 };
    let run = |options: *const fl_huber_options| unsafe { fl_huber(cpu.0, options, &raw const call) };
    assert_eq!(run((&raw const newer).cast()), FL_OK, "{}", message());
    newer.more = 1;
    assert_eq!(run((&raw const newer).cast()), FL_ERROR_STRUCT);
    assert!(message().contains("does not know"), "{}", message());
    // Ends in the middle of an address, of which the rest would be the default's.
    let (x, mut cut) = ([1.0f32; 2], new_call());
    (cut.input, cut.target) = (read(&x), read(&x));
    for size in [std::mem::offset_of!(fl_call, input) + 4, std::mem::offset_of!(fl_call, target) + 7, 9] {
        cut.size = size;
        assert_eq!(unsafe { fl_mae(cpu.0, &raw const cut) }, FL_ERROR_STRUCT, "{size}");
        assert!(message().contains("no version"), "{}", message());
    }
    // Without its delta, as one would be from before there was one.
    let older = fl_huber_options { size: size_of::<usize>(), delta: -1.0 };
    assert_eq!(run(&raw const older), FL_OK, "{}", message());
}

#[test]
fn a_gpu_is_there_or_the_reason_is_told() {
    let mut handle = std::ptr::null_mut();
    let status = unsafe { fl_cuda(-1, std::ptr::null_mut(), &raw mut handle) };
    assert!(matches!(status, FL_ERROR_OPTION | FL_ERROR_NO_CUDA));
    let status = unsafe { fl_cuda(4096, std::ptr::null_mut(), &raw mut handle) };
    assert_eq!(status, FL_ERROR_NO_CUDA);
    assert!(handle.is_null() && !message().is_empty());
}

/// Set FUSED_LOSS_WRITE_HEADER to write it.
#[test]
fn the_header_is_what_cbindgen_makes() {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{root}/cbindgen.toml")).unwrap();
    let made = cbindgen::generate_with_config(root, config).unwrap();
    let (mut text, path) = (vec![], format!("{root}/include/fused_loss.h"));
    made.write(&mut text);
    if std::env::var_os("FUSED_LOSS_WRITE_HEADER").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == text, "{path} is out of date: FUSED_LOSS_WRITE_HEADER=1 writes it anew");
}

mod sums;
