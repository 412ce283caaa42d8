//! Calls of the C ABI made of anything: codes, sizes of structs, option bits, lengths, shapes, addresses that are null, misaligned or
//! overlap, and raw bits in the buffers. What a caller promises is kept: a pointer is null or to as much memory as the call says. Each
//! call returns a status that is not `FL_ERROR_INTERNAL`; a refused one has written nothing, and one that was taken has written its
//! outputs and nothing else, and does the same again.
//!
//! A call is made from one number. Those that once went wrong are in `fuzz_corpus.txt` and come first; then `FUSED_LOSS_FUZZ_CASES` more,
//! from `FUSED_LOSS_FUZZ_SEED` on, as in the crate's own `tests/fuzz.rs`. With `FUSED_LOSS_FUZZ_SAY` each seed is printed before it is
//! tried, for a call that ends the process.

use std::ffi::{CStr, c_void};

use fused_loss::*;

const CASES: u64 = if cfg!(debug_assertions) { 8_000 } else { 400_000 };

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, got {text}")),
        Err(_) => otherwise,
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<X: Copy>(&mut self, from: &[X]) -> X {
        from[self.below(from.len())]
    }
}

/// A loss: its name, whether it has a class axis, the size of its options, what fills them in, and the call.
struct Loss {
    name: &'static str,
    rows: bool,
    size: usize,
    init: unsafe fn(*mut c_void),
    run: unsafe fn(*const fl_handle, *const c_void, *const fl_call) -> fl_status,
}

macro_rules! losses {
    ($($name:ident $rows:literal $(($options:ident $init:ident))?;)*) => {
        const LOSSES: &[Loss] = &[$(losses!(@ $name $rows $(($options $init))?),)* SUM];
    };
    (@ $name:ident $rows:literal) => {
        Loss { name: stringify!($name), rows: $rows, size: 0, init: |_| (), run: |h, _, c| unsafe { $name(h, c) } }
    };
    (@ $name:ident $rows:literal ($options:ident $init:ident)) => {
        Loss {
            name: stringify!($name),
            rows: $rows,
            size: size_of::<$options>(),
            init: |to| unsafe { $init(to.cast()) },
            run: |h, o, c| unsafe { $name(h, o.cast(), c) },
        }
    };
}
losses! {
    fl_mse false (fl_mse_options fl_mse_options_init);
    fl_mae false;
    fl_huber false (fl_huber_options fl_huber_options_init);
    fl_smooth_l1 false (fl_smooth_l1_options fl_smooth_l1_options_init);
    fl_bce false (fl_bce_options fl_bce_options_init);
    fl_bce_with_logits false (fl_bce_with_logits_options fl_bce_with_logits_options_init);
    fl_hinge false (fl_hinge_options fl_hinge_options_init);
    fl_squared_hinge false (fl_squared_hinge_options fl_squared_hinge_options_init);
    fl_kl_div false (fl_kl_div_options fl_kl_div_options_init);
    fl_kl_div_probs false (fl_kl_div_probs_options fl_kl_div_probs_options_init);
    fl_sigmoid_focal false (fl_sigmoid_focal_options fl_sigmoid_focal_options_init);
    fl_gan false (fl_gan_options fl_gan_options_init);
    fl_relativistic_pair false;
    fl_relativistic_average false (fl_relativistic_average_options fl_relativistic_average_options_init);
    fl_gradient_penalty true (fl_gradient_penalty_options fl_gradient_penalty_options_init);
    fl_cross_entropy true (fl_cross_entropy_options fl_cross_entropy_options_init);
    fl_cross_entropy_probs true (fl_cross_entropy_probs_options fl_cross_entropy_probs_options_init);
    fl_nll true (fl_nll_options fl_nll_options_init);
    fl_categorical_hinge true;
    fl_multi_margin true (fl_multi_margin_options fl_multi_margin_options_init);
    fl_softmax_focal true (fl_softmax_focal_options fl_softmax_focal_options_init);
    fl_distillation true (fl_distillation_options fl_distillation_options_init);
    fl_dice true (fl_dice_options fl_dice_options_init);
    fl_tversky true (fl_tversky_options fl_tversky_options_init);
    fl_log_cosh false;
    fl_quantile false (fl_quantile_options fl_quantile_options_init);
    fl_soft_margin false;
    fl_poisson_nll false (fl_poisson_nll_options fl_poisson_nll_options_init);
    fl_gaussian_nll false (fl_gaussian_nll_options fl_gaussian_nll_options_init);
    fl_margin_ranking false (fl_margin_ranking_options fl_margin_ranking_options_init);
    fl_dpo false (fl_dpo_options fl_dpo_options_init);
    fl_cosine_embedding true (fl_cosine_embedding_options fl_cosine_embedding_options_init);
    fl_triplet_margin true (fl_triplet_margin_options fl_triplet_margin_options_init);
    fl_jsd true (fl_jsd_options fl_jsd_options_init);
    fl_box_iou true (fl_box_iou_options fl_box_iou_options_init);
    fl_generalized_dice true (fl_generalized_dice_options fl_generalized_dice_options_init);
    fl_lovasz_hinge true (fl_lovasz_hinge_options fl_lovasz_hinge_options_init);
    fl_lovasz_softmax true (fl_lovasz_softmax_options fl_lovasz_softmax_options_init);
}

/// Sums of terms that follow from the call: options are pointers, of which arbitrary bits are none.
const SUM: Loss = Loss {
    name: "fl_sum",
    rows: true,
    size: 0,
    init: |_| (),
    run: |handle, _, call| {
        // SAFETY: null, or a call of this test's.
        let mut rng = Rng(unsafe { call.as_ref() }.map_or(0, |call| call.grad_output.to_bits().into()));
        let terms: [fl_term; 5] = std::array::from_fn(|_| {
            let loss =
                rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 13, 13, 14, 14, 15, 16, 17, 18, 19, 20, -1]);
            let options = if loss == 11 && rng.once_in(2) { (&raw const DICE).cast() } else { std::ptr::null() };
            fl_term { loss, weight: rng.pick(&[1.0, 0.5, -2.0, 0.0, 1e30, f32::INFINITY]), options }
        });
        let (count, terms) = (rng.below(6), if rng.once_in(40) { std::ptr::null() } else { terms.as_ptr() });
        // SAFETY: there are as many terms.
        unsafe { fl_sum(handle, terms, count, call) }
    },
};
static DICE: fl_dice_options = fl_dice_options {
    size: size_of::<fl_dice_options>(),
    activation: 2,
    smooth_nr: 1.0,
    smooth_dr: 1.0,
    batch: 0,
    include_background: 1,
    squared_pred: 0,
    jaccard: 0,
};

/// Every function of the header that takes a call is above.
#[test]
fn no_loss_is_left_out() {
    let header = include_str!("../include/fused_loss.h");
    let taken = header.split(';').filter(|f| f.contains("const fl_call *call)"));
    let names: Vec<&str> = taken.map(|f| f.split("fl_status fl_").nth(1).unwrap().split('(').next().unwrap()).collect();
    let missing: Vec<_> = names.iter().filter(|name| !LOSSES.iter().any(|l| l.name == format!("fl_{name}"))).collect();
    assert!(missing.is_empty() && names.len() == LOSSES.len(), "{missing:?}");
}

/// Memory of which calls get parts: 16 KiB, more than all that a call wants.
const WORDS: usize = 2048;
/// The most that the first field of a struct may say, and a little.
const STRUCT: usize = (1 << 16) + 64;

/// Where in the memory the next part goes.
struct Places {
    at: usize,
    given: Vec<usize>,
}

impl Places {
    /// The offset of so many bytes, aligned to `align` unless bad luck wants it otherwise; or one that was given before, or near it.
    fn of(&mut self, rng: &mut Rng, bytes: usize, align: usize) -> usize {
        let mut place = (self.at + rng.below(40)).next_multiple_of(align);
        if rng.once_in(60) {
            place += 1 + rng.below(align);
        }
        if rng.once_in(24) && !self.given.is_empty() {
            place = self.given[rng.below(self.given.len())] + align * rng.pick(&[0, 0, 1, 3]);
        }
        assert!(place + bytes <= 8 * WORDS, "more memory than there is");
        self.at = self.at.max(place + bytes);
        self.given.push(place);
        place
    }
}

/// Bits of one element: small numbers for the most part.
fn fill(rng: &mut Rng, memory: &mut [u64]) {
    let wild = rng.pick(&[1, 4, 40, usize::MAX]);
    for word in memory {
        let mut half = || {
            if rng.once_in(wild) { rng.next() as u32 } else { ((rng.below(4001) as f32 - 2000.0) / 1000.0).to_bits() }
        };
        *word = u64::from(half()) | u64::from(half()) << 32;
    }
}

/// A call with the memory that it points into.
struct Draft {
    loss: &'static Loss,
    memory: Vec<u64>,
    /// Null stands for none.
    options: Option<Vec<u64>>,
    /// A struct that is larger than this library's is read to its end.
    call: Vec<u64>,
    /// Byte ranges that may be written.
    written: Vec<std::ops::Range<usize>>,
}

fn draft(seed: u64) -> Draft {
    let mut rng = Rng(seed);
    let rng = &mut rng;
    let loss = &LOSSES[rng.below(LOSSES.len())];
    let mut memory = vec![0u64; WORDS];
    fill(rng, &mut memory);
    let base = memory.as_ptr().addr();
    let mut places = Places { at: 64, given: vec![] };
    let mut written = vec![];

    let axis = |rng: &mut Rng| rng.pick(&[0, 1, 1, 2, 3, 4, 5]);
    let (outer, classes, inner) = (axis(rng), 1 + rng.below(18), axis(rng));
    let classes = if loss.name == "fl_box_iou" { 4 } else { classes };
    let n = if loss.rows { outer * classes * inner } else { rng.pick(&[0, 1, 2, 15, 16, 17, 33, 60]) };
    let (rows, regions) = (outer * inner, outer * classes);
    let losses = match loss.name {
        "fl_dice" | "fl_tversky" | "fl_lovasz_hinge" => regions,
        "fl_lovasz_softmax" => classes,
        "fl_generalized_dice" => outer,
        _ if loss.rows => rows,
        _ => n,
    };

    let mut call = std::mem::MaybeUninit::<fl_call>::zeroed();
    // SAFETY: it can be written, and any bytes are one.
    let mut call = unsafe {
        fl_call_init(call.as_mut_ptr());
        call.assume_init()
    };
    let code = |rng: &mut Rng, known: i32| {
        if rng.once_in(60) { rng.pick(&[-1, 99, i32::MAX, i32::MIN]) } else { rng.below(known as usize) as i32 }
    };
    call.dtype = code(rng, 3);
    let wide = if call.dtype == 0 { 4 } else { 2 };
    call.reduction = code(rng, 6);
    call.accumulate = if rng.once_in(60) { -1 } else { i32::from(rng.once_in(6)) };

    // The length as it should be, or nearly; or so absurd that it must be refused without a look.
    let near = |rng: &mut Rng, n: usize| match rng.below(60) {
        0 => n + 1,
        1 => n.saturating_sub(1),
        2 => rng.pick(&[usize::MAX, usize::MAX / 2 + 1, isize::MAX as usize]),
        _ => n,
    };
    let mut part = |rng: &mut Rng, n: usize, bytes: usize| -> (*mut c_void, usize) {
        let len = near(rng, n);
        if rng.once_in(60) {
            return (std::ptr::null_mut(), len);
        }
        let there = if len > 1 << 20 { n } else { len };
        let place = places.of(rng, there * bytes, bytes);
        ((base + place) as *mut c_void, len)
    };
    macro_rules! read {
        ($field:ident, $n:expr, $bytes:expr) => {{
            let (data, len) = part(rng, $n, $bytes);
            call.$field = fl_in { data, len };
        }};
    }
    macro_rules! write {
        ($field:ident, $n:expr, $bytes:expr) => {{
            let (data, len) = part(rng, $n, $bytes);
            call.$field = fl_out { data, len };
            if !data.is_null() && len < 1 << 20 {
                written.push(data.addr() - base..data.addr() - base + len * $bytes);
            }
        }};
    }
    read!(input, n, wide);
    let kinds = match loss.name {
        "fl_gan" | "fl_gradient_penalty" => [0; 8],
        "fl_nll" | "fl_softmax_focal" | "fl_multi_margin" => [2, 2, 3, 3, 4, 4, 5, 5],
        "fl_distillation" | "fl_jsd" | "fl_box_iou" | "fl_cosine_embedding" | "fl_triplet_margin" => [1; 8],
        _ if loss.rows => [1, 1, 1, 2, 3, 4, 5, 5],
        _ => [1; 8],
    };
    call.target_kind = if rng.once_in(30) { code(rng, 6) } else { rng.pick(&kinds) };
    let bytes = match call.target_kind {
        2 => 8,
        3 | 4 => 4,
        5 => 1,
        _ => wide,
    };
    match call.target_kind {
        0 => {}
        1 if loss.name == "fl_relativistic_average" => {
            let fake = 1 + rng.below(30);
            read!(target, fake, wide);
        }
        1 => read!(target, n, wide),
        _ => read!(target, rows, bytes),
    }
    let third = match loss.name {
        "fl_gaussian_nll" | "fl_margin_ranking" | "fl_dpo" | "fl_triplet_margin" => Some(n),
        "fl_sum" if rng.once_in(3) => Some(n),
        "fl_cosine_embedding" => Some(rows),
        _ => None,
    };
    if third.is_some() != rng.once_in(30) {
        read!(third, third.unwrap_or(n), wide);
    }
    if rng.once_in(4) {
        read!(weight, losses, 4);
    } else if rng.once_in(4) {
        read!(sample_weight, outer, 4);
    }
    if rng.once_in(5) {
        read!(class_weight, classes, 4);
    }
    call.grad_output = if rng.once_in(2) { 1.0 } else { f32::from_bits(rng.next() as u32) };
    if rng.once_in(8) {
        call.grad_output_at = part(rng, 1, 4).0.cast();
    }
    if (call.reduction == 0) != rng.once_in(30) {
        read!(grad_outputs, losses, 4);
    }
    call.batch = rng.pick(&[outer, outer, 0, 7, usize::MAX]);
    call.denominator = if rng.once_in(4) { f64::from_bits(rng.next()) } else { 3.5 };
    if call.reduction == 5 && rng.once_in(3) || rng.once_in(60) {
        call.denominator_at = part(rng, 1, 4).0.cast();
    }
    if loss.rows != rng.once_in(40) {
        (call.outer, call.classes, call.inner) = (outer, classes, inner);
    }
    if rng.once_in(40) {
        (call.outer, call.inner) = (rng.pick(&[0, 1 << 32, usize::MAX]), rng.pick(&[0, 1 << 32, usize::MAX]));
    }
    if !rng.once_in(6) {
        write!(value, if call.reduction == 0 { losses } else { 1 }, 4);
    }
    if !rng.once_in(5) {
        if rng.once_in(5) {
            // In place.
            call.grad_input = fl_out { data: call.input.data.cast_mut(), len: call.input.len };
            if !call.input.data.is_null() && call.input.len < 1 << 20 {
                let start = call.input.data.addr() - base;
                written.push(start..start + call.input.len * wide);
            }
        } else {
            write!(grad_input, n, wide);
        }
    }
    if rng.once_in(4) || loss.name == "fl_relativistic_average" {
        write!(grad_target, call.target.len.min(100), wide);
    }
    if matches!(loss.name, "fl_gaussian_nll" | "fl_triplet_margin") && rng.once_in(2) || rng.once_in(60) {
        write!(grad_third, call.third.len.min(100), wide);
    }
    if loss.name == "fl_sum" && rng.once_in(2) || rng.once_in(60) {
        let count = 1 + rng.below(4);
        write!(terms, count, 4);
    }
    if loss.name == "fl_cross_entropy" && rng.once_in(2) || rng.once_in(60) {
        write!(log_prob, losses, 4);
        write!(entropy, losses, 4);
        write!(lse, losses, 4);
        write!(hit, losses, 4);
        write!(argmax, losses, 8);
    }
    // Indices that are classes, or nearly all of them.
    if call.target_kind >= 2 && !call.target.data.is_null() && call.target.len < 1 << 20 {
        let bytes_of = memory.as_mut_ptr().cast::<u8>();
        for i in 0..call.target.len * bytes {
            // Little-endian: the class, and then zeros.
            let byte = match i % bytes {
                _ if rng.once_in(200) => 0xfe,
                0 => rng.below(classes) as u8,
                _ => 0,
            };
            // SAFETY: inside of the memory, as all parts are.
            unsafe { bytes_of.add(call.target.data.addr() - base + i).write(byte) };
        }
    }

    // The size of a struct: as it is, of an older or a newer library, or none at all.
    let size = |rng: &mut Rng, now: usize| match rng.below(40) {
        0 => 8 + rng.below(now - 7),
        1 => now + rng.below(48),
        2 => rng.pick(&[0, 7, 1 << 16, (1 << 16) + 1, usize::MAX]),
        _ => now,
    };
    let options = (loss.size != 0 && !rng.once_in(6)).then(|| {
        let mut options = vec![0u64; STRUCT / 8];
        // SAFETY: it is large enough for any of them.
        unsafe { (loss.init)(options.as_mut_ptr().cast()) };
        let halves = options.as_mut_ptr().cast::<u32>();
        for i in 2..loss.size / 4 {
            let bits = match rng.below(16) {
                0 => rng.next() as u32,
                1 => rng.pick(&[0u32, 1, 2, 3, 5, 0xffff_ffff]),
                2 => (rng.below(1000) as f32 / 500.0).to_bits(),
                _ => continue,
            };
            // SAFETY: inside of it.
            unsafe { halves.add(i).write(bits) };
        }
        options[0] = size(rng, loss.size) as u64;
        if rng.once_in(60) {
            options[loss.size.div_ceil(8) + 1] = rng.next();
        }
        options
    });
    call.size = size(rng, size_of::<fl_call>());
    let mut bytes = vec![0u64; STRUCT / 8];
    // SAFETY: large enough, and aligned.
    unsafe { bytes.as_mut_ptr().cast::<fl_call>().write(call) };
    Draft { loss, memory, options, call: bytes, written }
}

#[test]
fn whatever_a_call_is_made_of_it_returns_a_status() {
    let mut handle = std::ptr::null_mut();
    // SAFETY: it can be written.
    assert_eq!(unsafe { fl_cpu(&raw mut handle) }, fl_status::FL_OK);
    let corpus = include_str!("fuzz_corpus.txt").lines().filter(|line| !line.starts_with('#'));
    let corpus = corpus.map(|line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap());
    let (first, count) = (number("FUSED_LOSS_FUZZ_SEED", 1), number("FUSED_LOSS_FUZZ_CASES", CASES));
    let mut seen = [0u64; 14];
    for seed in corpus.chain((0..count).map(|i| first.wrapping_add(i))) {
        if std::env::var_os("FUSED_LOSS_FUZZ_SAY").is_some() {
            eprintln!("{seed}");
        }
        let Draft { loss, mut memory, options, call, written } = draft(seed);
        let before = memory.clone();
        let options = options.as_ref().map_or(std::ptr::null(), |o| o.as_ptr().cast());
        let run = || unsafe { (loss.run)(handle, options, call.as_ptr().cast()) };
        let status = run();
        // SAFETY: never null.
        let message = unsafe { CStr::from_ptr(fl_last_error()) }.to_string_lossy().into_owned();
        let context = format!("seed {seed}, {}: {status:?}, {message}", loss.name);
        assert!((status as usize) < seen.len() && status != fl_status::FL_ERROR_INTERNAL, "{context}");
        seen[status as usize] += 1;
        if status != fl_status::FL_OK {
            assert!(memory == before && !message.is_empty(), "it was refused, and wrote: {context}");
            continue;
        }
        let bytes = |words: &[u64]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        let (old, new) = (bytes(&before), bytes(&memory));
        let outside = (0..old.len()).find(|i| old[*i] != new[*i] && !written.iter().any(|range| range.contains(i)));
        assert!(outside.is_none(), "it wrote byte {outside:?}, and has {written:?}: {context}");
        let first = memory.clone();
        memory.copy_from_slice(&before);
        assert!(run() == fl_status::FL_OK && memory == first, "once more, it does something else: {context}");
    }
    println!("{seen:?}");
    // Not all of one kind.
    assert!(count < 1000 || [0, 1, 2, 3, 4, 5, 6, 7].iter().all(|&status| seen[status] > count / 500), "{seen:?}");
    // SAFETY: made above.
    unsafe { fl_destroy(handle) };
}
