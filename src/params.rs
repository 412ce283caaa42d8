//! Every struct that crosses to a kernel, on one page.
//!
//! The structs are declared once, here. `build.rs` includes this file too and writes the C header
//! from it, with a `static_assert` on the size of each struct and the offset of each field, so that
//! the two sides cannot drift apart: two swapped floats would be silent.
//!
//! This file therefore uses nothing but `core`.

/// Declares `#[repr(C)]` structs of four-byte fields, and `C_DECLARATIONS`, the same in C.
macro_rules! params {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $t:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq)]
            pub struct $name { $($(#[$field_doc])* pub $field: $t,)* }
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

params! {
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
    }
}
