//! Every struct that crosses to a kernel, on one page.
//!
//! The structs are declared once, here. `build.rs` includes this file too and writes the C header
//! from it, with a `static_assert` on the size of each struct and the offset of each field, so that
//! the two sides cannot drift apart: two swapped floats would be silent.
//!
//! This file therefore uses nothing but `core`.

/// Declares `#[repr(C)]` structs without padding, and [`STRUCTS`], which says the same to build.rs.
macro_rules! params {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $t:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq)]
            pub struct $name { $($(#[$field_doc])* pub $field: $t,)* }

            // Padding would be bytes that nobody writes and a launch copies.
            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$t>())*);
        )*

        /// The structs as C: name, size, and of each field the Rust type, the name and the offset.
        #[allow(dead_code)]
        pub const STRUCTS: &[(&str, usize, &[(&str, &str, usize)])] = &[
            $((
                stringify!($name),
                size_of::<$name>(),
                &[$((stringify!($t), stringify!($field), core::mem::offset_of!($name, $field)),)*],
            ),)*
        ];
    };
}

/// Declares numbers that both sides know.
macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* #[allow(dead_code)] pub const $name: u32 = $value;)*

        /// The numbers, for the C header.
        #[allow(dead_code)]
        pub const CONSTANTS: &[(&str, u32)] = &[$((stringify!($name), $name),)*];
    };
}

constants! {
    /// Threads of a block of the element-wise and region kernels.
    BLOCK = 256;
    /// Elements that a thread of an element-wise kernel takes in a step of its block, at most.
    IN_FLIGHT = 16;
    /// Threads of a block of the kernels that give a row to each thread.
    COLUMN_BLOCK = 128;
    /// Most partial sums of a reduction: most blocks of an element-wise or row-wise launch.
    MAX_PARTIALS = 8192;
    /// Most parts in which blocks compute a denominator.
    MAX_CHUNKS = 1024;
    /// Fewest weights or rows of such a part.
    CHUNK_MIN = 4096;
    /// Most weights or rows that each block adds up by itself.
    COUNTED_ALONE = 1024;

    /// `flags`: add to the gradients instead of overwriting them.
    ACCUMULATE = 1;
    /// `flags`: rows whose index is `ignore_index` are left out.
    IGNORE = 2;
    /// `flags`: the dynamic shared memory holds the rows of a block between two looks at them.
    CACHED = 4;
    /// `flags`: a region is a channel of the whole batch.
    BATCH = 8;
    /// `flags`: channel 0 is no region.
    NO_BACKGROUND = 16;
    /// `flags`: the labels are 0 and 1 if a launch of `fl_keras_labels` found no other.
    KERAS_LABELS = 32;
    /// `flags`: the reduction is a mean, which each term of a combined loss divides by what is its own.
    OWN_MEANS = 64;

    /// The bit of a row in the error word that says: a token of a head that counts, one more than was said.
    TOO_MANY = 62;

    /// `target_kind`
    TARGET_NONE = 0;
    /// `target_kind`: of the input's type and shape.
    TARGET_DENSE = 1;
    /// `target_kind`: one class index a row.
    TARGET_I64 = 2;
    /// `target_kind`: one class index a row.
    TARGET_I32 = 3;
    /// `target_kind`: one class index a row.
    TARGET_U32 = 4;
    /// `target_kind`: one class index a row.
    TARGET_U8 = 5;

    /// `divide_by`: `denominator`, which is already in `scale`.
    BY_HOST = 0;
    /// `divide_by`: the device scalar `divisor`.
    BY_DEVICE = 1;
    /// `divide_by`: the number of rows that are not ignored.
    BY_ROWS = 2;
    /// `divide_by`: the sum of the class weights of the targets that are not ignored.
    BY_CLASS_WEIGHTS = 3;
    /// `divide_by`: the sum of all weights: per loss and, of its target or region, per class.
    BY_WEIGHTS = 4;

    /// `DiceParams::together`: weights are 1.
    WEIGH_UNIFORM = 1;
    /// `DiceParams::together`: weights are the inverse of T.
    WEIGH_SIMPLE = 2;
    /// `DiceParams::together`: weights are the inverse of T^2.
    WEIGH_SQUARE = 3;

    /// Numbers of a row that ranks add up: see `kernels/vocab.cuh`.
    VOCAB_SUMS = 5;

    /// Most terms of a combined loss.
    MAX_TERMS = 4;
    /// `TermsParams::kind`
    TERM_MSE = 0;
    /// `TermsParams::kind`
    TERM_MAE = 1;
    /// `TermsParams::kind`
    TERM_HUBER = 2;
    /// `TermsParams::kind`
    TERM_SMOOTH_L1 = 3;
    /// `TermsParams::kind`
    TERM_BCE = 4;
    /// `TermsParams::kind`
    TERM_BCE_WITH_LOGITS = 5;
    /// `TermsParams::kind`
    TERM_HINGE = 6;
    /// `TermsParams::kind`
    TERM_SQUARED_HINGE = 7;
    /// `TermsParams::kind`
    TERM_KL_DIV = 8;
    /// `TermsParams::kind`
    TERM_KL_DIV_LOG_TARGET = 9;
    /// `TermsParams::kind`
    TERM_KL_DIV_PROBS = 10;
    /// `TermsParams::kind`: gamma 2.
    TERM_SIGMOID_FOCAL = 11;
    /// `TermsParams::kind`: any gamma.
    TERM_SIGMOID_FOCAL_ANY = 12;
    /// `TermsParams::kind`: `TERM_BCE_WITH_LOGITS` without options, which has a shorter formula where no class has a weight either.
    TERM_BCE_PLAIN = 13;
    /// `TermsParams::kind`
    TERM_LOG_COSH = 14;
    /// `TermsParams::kind`
    TERM_QUANTILE = 15;
    /// `TermsParams::kind`: of the logarithm of the rate.
    TERM_POISSON_NLL = 16;
    /// `TermsParams::kind`: of the rate.
    TERM_POISSON_NLL_RATE = 17;
    /// `TermsParams::kind`
    TERM_SOFT_MARGIN = 18;
}

params! {
    /// What a launch of any kernel is told besides the options of its loss. Pointers are device addresses,
    /// 0 where there is nothing. A row has fewer than 2^31 classes; nothing else is that small.
    struct LaunchArgs {
        /// `elements` of the storage type.
        input: u64,
        /// See `target_kind`.
        target: u64,
        /// `classes` f32 (without the background, where that is no region).
        class_weight: u64,
        /// One f32 for `each` consecutive losses.
        weight: u64,
        /// One f32 for each loss: the upstream gradients of the unreduced form.
        grad_outputs: u64,
        /// `elements` of the storage type; may be `input`.
        grad_input: u64,
        /// `elements` of the storage type.
        grad_target: u64,
        /// One f32 for each loss: the unreduced values.
        values: u64,
        /// One f32: the reduced value.
        value: u64,
        /// One f32 that every gradient is multiplied by, besides `scale`.
        grad_scale: u64,
        /// One f32, see `divide_by`.
        divisor: u64,
        /// A [`Workspace`] with its arrays behind it. No two launches may use it at once.
        workspace: u64,
        /// Partial sums and slopes of the losses that take several launches, and those of the terms of a combined loss; as large
        /// as their plan says.
        scratch: u64,
        /// One f32 for each term of a combined loss: their own reduced values.
        terms: u64,
        /// The third tensor of a loss of three, of the storage type: `elements`, or one number a row.
        third: u64,
        /// `elements` of the storage type.
        grad_third: u64,
        /// One f32 a row: the log-probability of its target.
        log_prob: u64,
        /// One f32 a row.
        entropy: u64,
        /// One f32 a row: its log-sum-exp.
        lse: u64,
        /// One f32 a row: 1 where the target is the largest.
        hit: u64,
        /// One i64 a row: the class of the largest logit.
        argmax: u64,
        /// Input elements.
        elements: u64,
        /// Losses: elements, rows or regions.
        losses: u64,
        /// Classes of a row; channels; element-wise the class weights. At least 1.
        classes: u64,
        /// How far apart the classes of a row are; positions of a channel of a sample.
        inner: u64,
        /// Input elements from one sample to the next: `classes * inner`, or more.
        pitch: u64,
        /// Of the head's cross-entropy: one number of the storage type for each class, added to the logits.
        bias: u64,
        /// Consecutive losses that share a weight. At least 1.
        each: u64,
        /// Elements, rows or positions of a block, side by side; where a thread has a row, the blocks take turns.
        tile: u64,
        /// See `IGNORE`.
        ignore_index: i64,
        /// What the value is divided by, if the host knows it.
        denominator: f64,
        /// What every gradient is multiplied by: the upstream gradient, divided by `denominator` if the host
        /// knows that.
        scale: f32,
        /// A sum of the flags above.
        flags: u32,
        /// One of the kinds above.
        target_kind: u32,
        /// One of the denominators above.
        divide_by: u32,
    }

    /// The head of the workspace; behind it `MAX_CHUNKS` and then `MAX_PARTIALS` f64. Zero before its first
    /// launch; every launch leaves it as it found it, but for `error` and `stray_labels`.
    struct Workspace {
        /// 0, or the complement of the first row whose class index is out of range.
        error: u64,
        /// What blocks found together.
        denominator: f64,
        /// Parts of the denominator that have been dealt out.
        dealt: u32,
        /// Parts of it that are finished.
        arrived: u32,
        /// `denominator` is there.
        ready: u32,
        /// Blocks that are finished.
        done: u32,
        /// Labels that are neither 0 nor 1, see `KERAS_LABELS`.
        stray_labels: u32,
        /// Indices of a region loss that are no class.
        bad_target: u32,
    }

    /// What the launches of a head tell one another; behind it the tokens that count, in their order: their numbers as u32, their
    /// classes as i32, their weights, their losses and what they give the gradient of the scale as f32, each `HeadParams::room` long; then a
    /// value of each chunk as f32.
    struct HeadState {
        /// What the value is divided by.
        denominator: f64,
        /// What products of gradients are multiplied by: upstream gradient over denominator and `row_scale`.
        alpha: f32,
        /// 1, for products that add.
        one: f32,
        /// 0, for products that overwrite.
        zero: f32,
        /// What gradients of logits are multiplied by, so that f16 holds them.
        row_scale: f32,
        /// Tokens that count.
        counted: u32,
        /// Not 0 if the value is NaN whatever the losses are.
        spoilt: u32,
        /// What products of inputs and weights are multiplied by.
        logit_scale: f32,
        /// `alpha` times that, of which the weight gradient is made.
        scaled_alpha: f32,
        /// What tokens with a class of this rank add to the denominator; then what those of all ranks do.
        share: f32,
        /// Nothing.
        unused: f32,
    }

    /// The small kernels of a head.
    struct HeadParams {
        /// Most tokens that count.
        room: u32,
        /// The first of them of the chunk.
        first: u32,
        /// Chunks.
        chunks: u32,
        /// Of the cross-entropy.
        z_loss: f32,
        /// What products of inputs and weights are multiplied by, besides what `LaunchArgs::third` points at.
        logit_scale: f32,
        /// What the value is multiplied by.
        part: f32,
        /// Not 0 if it is added to what is there.
        adds: u32,
        /// The first class of this rank, and how many all ranks have.
        first_class: u32,
        /// See `first_class`.
        total: u32,
        /// Not 0 if `denominator` comes of what the ranks add up: a launch of its own makes it.
        apart: u32,
    }

    /// For losses without options.
    struct NoParams {
        /// Nothing.
        unused: u32,
    }

    /// `factor * (x - t)^2`.
    struct MseParams {
        /// 1, or 1/2 for the half form.
        factor: f32,
    }

    /// Huber.
    struct HuberParams {
        /// Where the parabola ends; above zero, perhaps infinite.
        delta: f32,
    }

    /// Smooth L1.
    struct SmoothL1Params {
        /// Where the parabola ends; zero, or a normal number above it.
        beta: f32,
        /// `1 / beta`, or zero.
        inv_beta: f32,
    }

    /// Binary cross-entropy on probabilities.
    struct BceParams {
        /// Keras's clip; zero for PyTorch's clamp.
        epsilon: f32,
        /// The smoothed target is `t * (1 - smoothing) + smoothing / 2`.
        smoothing: f32,
    }

    /// Binary cross-entropy on logits.
    struct BceWithLogitsParams {
        /// Multiplies the cost of positives.
        pos_weight: f32,
        /// The smoothed target is `t * (1 - smoothing) + smoothing / 2`.
        smoothing: f32,
    }

    /// Hinge, and squared hinge.
    struct HingeParams {
        /// `y = label_scale * t + label_offset` is -1 or 1.
        label_scale: f32,
        /// See `label_scale`.
        label_offset: f32,
    }

    /// Quantile.
    struct QuantileParams {
        /// The price of a prediction that is too low; the rest of 1 is that of one too high.
        quantile: f32,
    }

    /// Negative log-likelihood of a Poisson distribution.
    struct PoissonNllParams {
        /// Added to a rate before its logarithm.
        eps: f32,
        /// Not zero: with Stirling's approximation of the term of the target alone.
        full: u32,
    }

    /// Negative log-likelihood of a Gaussian distribution.
    struct GaussianNllParams {
        /// The least variance.
        eps: f32,
        /// Added to the value: `ln(2 pi) / 2`, or zero.
        constant: f32,
    }

    /// Margin ranking.
    struct MarginRankingParams {
        /// By how much the one must be above the other.
        margin: f32,
    }

    /// Direct preference optimisation. With h the policy's log-ratio less the reference's.
    struct DpoParams {
        /// How far the policy may go from the reference.
        beta: f32,
        /// `sp(-beta h)` has this factor, or `(1 - beta h)+`.
        preferred: f32,
        /// `sp(beta h)` has this one.
        flipped: f32,
        /// IPO's target of h: `1 / (2 beta)`.
        target: f32,
    }

    /// Generalised Jensen-Shannon divergence between two softmaxes.
    struct JsdParams {
        /// `1 / temperature`.
        inv_temperature: f32,
        /// The mixture has this share of the teacher.
        beta: f32,
        /// Factor of the divergence of the student from the mixture.
        student: f32,
        /// Factor of that of the teacher.
        teacher: f32,
    }

    /// KL divergence on probabilities.
    struct KlDivProbsParams {
        /// Both sides are clipped to `[epsilon, 1]`.
        epsilon: f32,
    }

    /// Sigmoid focal.
    struct SigmoidFocalParams {
        /// Weight of positives.
        alpha_pos: f32,
        /// Weight of negatives.
        alpha_neg: f32,
        /// The exponent.
        gamma: f32,
    }

    /// The terms of a combined loss.
    struct TermsParams {
        /// What they are, see `TERM_MSE`.
        kind: [u32; 4],
        /// What they are multiplied by.
        weight: [f32; 4],
        /// The first of the options of each.
        a: [f32; 4],
        /// The second.
        b: [f32; 4],
        /// The third.
        c: [f32; 4],
        /// How many they are.
        terms: u32,
        /// 1 if one of them is made of the logistic function of the input.
        logistic: u32,
    }

    /// A GAN term: `sign * l(x)`, pulled to `label` where the mode has labels.
    struct GanTermParams {
        /// 1 or -1.
        sign: f32,
        /// The label of a logistic or least-squares term.
        label: f32,
    }

    /// Cross-entropy on logits.
    struct CrossEntropyParams {
        /// Mass taken from the target and spread over all classes.
        smoothing: f32,
        /// Factor of the squared log-sum-exp.
        z_loss: f32,
        /// Logits are bent to `softcap * tanh(z / softcap)`; zero for not at all.
        softcap: f32,
    }

    /// A loss of sorted errors.
    struct SortParams {
        /// Regions, each of which is sorted by itself.
        segments: u32,
        /// The half of the scratch memory where keys and items are.
        half: u32,
        /// Where the byte is that a pass sorts by.
        shift: u32,
        /// Not 0 if regions without a foreground count for nothing.
        present: u32,
    }

    /// Cross-entropy of which a rank has some classes.
    struct VocabParams {
        /// Its options.
        of: CrossEntropyParams,
        /// The first class of this rank.
        first: u32,
        /// Classes of all ranks.
        total: u32,
        /// Not 0 if classes have weights.
        weighs: u32,
    }

    /// Cross-entropy and a distillation of the same rows.
    struct CombinedRowsParams {
        /// What the two are multiplied by.
        weights: [f32; 2],
        /// Of cross-entropy: mass taken from the target and spread over all classes.
        smoothing: f32,
        /// Of cross-entropy: factor of the squared log-sum-exp.
        z_loss: f32,
        /// `1 / temperature`.
        inv_temperature: f32,
        /// Of the distillation: `temperature^2`, or 1.
        factor: f32,
    }

    /// Cross-entropy on probabilities.
    struct CrossEntropyProbsParams {
        /// Clip after the normalisation.
        epsilon: f32,
        /// Mass taken from the target and spread over all classes.
        smoothing: f32,
    }

    /// Softmax focal.
    struct SoftmaxFocalParams {
        /// The exponent.
        gamma: f32,
    }

    /// KL divergence between two softmaxes.
    struct DistillationParams {
        /// `1 / temperature`.
        inv_temperature: f32,
        /// Factor of the value: `temperature^2` or 1.
        factor: f32,
    }

    /// Overlap of boxes.
    struct BoxIouParams {
        /// Added to denominators.
        eps: f32,
        /// Not zero: with the share of the hull that is of neither.
        hull: u32,
        /// Not zero: with the distance of the centres.
        centre: u32,
        /// Not zero: with the difference of the aspect ratios.
        aspect: u32,
    }

    /// Cosine embedding.
    struct CosineEmbeddingParams {
        /// A cosine above this costs, where it should be low.
        margin: f32,
    }

    /// Triplet margin.
    struct TripletMarginParams {
        /// By how much the negative must be further from the anchor than the positive.
        margin: f32,
        /// Added to differences.
        eps: f32,
        /// Not zero: the negative is as far as it is from anchor or positive, whichever is nearer.
        swap: u32,
    }

    /// Multi-class margin.
    struct MultiMarginParams {
        /// The margin.
        margin: f32,
        /// The exponent, 1 or 2.
        p: u32,
    }

    /// Gradient penalty.
    struct GradientPenaltyParams {
        /// lambda of WGAN-GP, gamma of R1.
        weight: f32,
        /// 1 for WGAN-GP, 0 for R1.
        centred: u32,
    }

    /// Dice and its kin: with I = sum p t, P = sum p^k, T = sum t^k of a region, the loss is
    /// `1 - (overlap I + smooth_nr) / (union_i I + union_p P + union_t T + smooth_dr)`.
    struct DiceParams {
        /// Factor of I in the numerator.
        overlap: f32,
        /// Factor of I in the denominator.
        union_i: f32,
        /// Factor of P in the denominator.
        union_p: f32,
        /// Factor of T in the denominator.
        union_t: f32,
        /// Added to the numerator.
        smooth_nr: f32,
        /// Added to the denominator.
        smooth_dr: f32,
        /// k is 2 if not zero, else 1.
        squared: u32,
        /// Focal: the loss is raised to this power.
        gamma: f32,
        /// Not zero: the regions of a sample have one loss together, of their sums times weights, see `WEIGH_SQUARE`.
        together: u32,
    }

    /// Dice and its kin as above, with a loss of the same logits beside it.
    struct DiceLogitsParams {
        /// Of Dice.
        region: DiceParams,
        /// What the two are multiplied by.
        weights: [f32; 2],
        /// What the other is: `TERM_BCE_WITH_LOGITS`, `TERM_SIGMOID_FOCAL` or `TERM_SIGMOID_FOCAL_ANY`.
        kind: u32,
        /// The first of its options.
        a: f32,
        /// The second.
        b: f32,
        /// The third.
        c: f32,
    }

    /// Dice and its kin as above, with cross-entropy of the same softmax beside it.
    struct DiceCrossEntropyParams {
        /// Of Dice.
        region: DiceParams,
        /// What the two are multiplied by.
        weights: [f32; 2],
        /// Mass taken from the target and spread over all classes.
        smoothing: f32,
        /// Factor of the squared log-sum-exp.
        z_loss: f32,
    }

    /// Dice and its kin as above, with focal loss of the same softmax beside it.
    struct DiceFocalParams {
        /// Of Dice.
        region: DiceParams,
        /// What the two are multiplied by.
        weights: [f32; 2],
        /// The exponent.
        gamma: f32,
    }
}
