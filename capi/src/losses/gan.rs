//! Adversarial losses.

use fl::{GanLoss, GanMode, GradientPenalty, RelativisticPair};

use crate::call::{fl_call, flag, run, run_average};
use crate::handle::fl_handle;
use crate::losses::{decode, options};
use crate::status::Outcome;
use crate::status::{fl_status, guarded};
use crate::structs::{init, read_or_default};

/// Kinds of GAN losses.
#[repr(C)]
pub enum fl_gan_mode {
    /// `-ln D(G(z))` for the generator.
    FL_GAN_NON_SATURATING = 0,
    /// `ln(1 - D(G(z)))` for the generator.
    FL_GAN_MINIMAX = 1,
    /// Least squares.
    FL_GAN_LEAST_SQUARES = 2,
    /// Wasserstein.
    FL_GAN_WASSERSTEIN = 3,
    /// Hinge.
    FL_GAN_HINGE = 4,
    /// Non-saturating, of probabilities in place of logits.
    FL_GAN_PROBABILITIES = 5,
}

/// Terms of a GAN loss.
#[repr(C)]
pub enum fl_gan_term {
    /// The discriminator's, of real samples.
    FL_GAN_REAL = 0,
    /// The discriminator's, of fake samples.
    FL_GAN_FAKE = 1,
    /// The generator's.
    FL_GAN_GENERATOR = 2,
}

/// Kinds of gradient penalty.
#[repr(C)]
pub enum fl_penalty {
    /// `lambda (norm - 1)^2`
    FL_PENALTY_WGAN_GP = 0,
    /// `gamma / 2 norm^2`
    FL_PENALTY_R1 = 1,
}

fn mode(code: i32) -> Outcome<GanMode> {
    decode!("mode", code, fl_gan_mode {
        FL_GAN_NON_SATURATING => GanMode::NonSaturating,
        FL_GAN_MINIMAX => GanMode::Minimax,
        FL_GAN_LEAST_SQUARES => GanMode::LeastSquares,
        FL_GAN_WASSERSTEIN => GanMode::Wasserstein,
        FL_GAN_HINGE => GanMode::Hinge,
        FL_GAN_PROBABILITIES => GanMode::Probabilities,
    })
}

/// Options of `fl_gan`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_gan_options {
    /// Set by `fl_gan_options_init`.
    pub size: usize,
    /// An `fl_gan_mode`. `FL_GAN_NON_SATURATING`.
    pub mode: i32,
    /// An `fl_gan_term`. `FL_GAN_REAL`.
    pub term: i32,
    /// One-sided label smoothing, such as 0.9; 1 in modes without labels. 1.
    pub real_label: f32,
}
options!(fl_gan_options {
    mode: fl_gan_mode::FL_GAN_NON_SATURATING as i32,
    term: fl_gan_term::FL_GAN_REAL as i32,
    real_label: 1.0,
});

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gan_options_init(options: *mut fl_gan_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// One term of a GAN loss, of what the discriminator said of a batch: no target (`FL_TARGET_NONE`). The discriminator's loss is
/// the sum of its terms of a real and a fake batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gan(
    handle: *const fl_handle,
    options: *const fl_gan_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let mut gan = GanLoss::new(mode(o.mode)?);
        if o.real_label != 1.0 {
            gan = gan.real_label(o.real_label)?;
        }
        let term = decode!("term", o.term, fl_gan_term {
            FL_GAN_REAL => gan.real_term(),
            FL_GAN_FAKE => gan.fake_term(),
            FL_GAN_GENERATOR => gan.generator_term(),
        });
        run(handle, &term?, call)
    })
}

/// Relativistic pairing GAN, `softplus(input - target)`: for the discriminator input is what it said of the fake batch and
/// target of the real one, for the generator the other way round. Gradients for both.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_relativistic_pair(handle: *const fl_handle, call: *const fl_call) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { run(handle, &RelativisticPair, call) })
}

/// Options of `fl_relativistic_average`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_relativistic_average_options {
    /// Set by `fl_relativistic_average_options_init`.
    pub size: usize,
    /// 1: the generator's loss; 0: the discriminator's.
    pub generator: i32,
}
options!(fl_relativistic_average_options { generator: 0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_relativistic_average_options_init(options: *mut fl_relativistic_average_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Relativistic average GAN: input is what the discriminator said of the real batch, target of the fake one, of any length.
/// `FL_MEAN` alone; gradients for both or neither.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_relativistic_average(
    handle: *const fl_handle,
    options: *const fl_relativistic_average_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        run_average(handle, flag("generator", o.generator)?, call)
    })
}

/// Options of `fl_gradient_penalty`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fl_gradient_penalty_options {
    /// Set by `fl_gradient_penalty_options_init`.
    pub size: usize,
    /// An `fl_penalty`. `FL_PENALTY_WGAN_GP`.
    pub kind: i32,
    /// lambda of WGAN-GP, gamma of R1; zero or above. 10.
    pub weight: f32,
}
options!(fl_gradient_penalty_options { kind: fl_penalty::FL_PENALTY_WGAN_GP as i32, weight: 10.0 });

/// Fills in the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gradient_penalty_options_init(options: *mut fl_gradient_penalty_options) {
    // SAFETY: the caller's promise.
    guarded(|| unsafe { init(options) });
}

/// Gradient penalty of samples: input is the discriminator's gradient for them, `outer` samples of `classes` elements; no target
/// (`FL_TARGET_NONE`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_gradient_penalty(
    handle: *const fl_handle,
    options: *const fl_gradient_penalty_options,
    call: *const fl_call,
) -> fl_status {
    // SAFETY: the caller's promise.
    guarded(|| unsafe {
        let o = read_or_default(options)?;
        let loss = decode!("kind", o.kind, fl_penalty {
            FL_PENALTY_WGAN_GP => GradientPenalty::wgan_gp(o.weight)?,
            FL_PENALTY_R1 => GradientPenalty::r1(o.weight)?,
        });
        run(handle, &loss?, call)
    })
}
