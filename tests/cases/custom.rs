//! Losses that a user of the crate might write, and sums.

use std::path::PathBuf;

use fused_loss::{Custom, launch};

/// The squared error, weighted by `tau` where the prediction is too low.
pub fn expectile(tau: f32) -> Custom {
    let formula = |x: f32, t: f32, [tau]: [f32; 1]| {
        let e = x - t;
        let w = if e > 0.0 { 1.0 - tau } else { tau };
        (w * e * e, 2.0 * w * e)
    };
    let expectile = Custom::new("expectile", [("tau", 0.5)], formula).unwrap().cuda(
        "const float e = x - t;
         const float w = e > 0.0f ? 1.0f - tau : tau;
         value = w * e * e;
         grad = 2.0f * w * e;",
    );
    expectile.option("tau", tau).unwrap()
}

/// Charbonnier's: the absolute error, rounded off, with a parameter that says how far and a factor.
pub fn charbonnier(epsilon: f32, factor: f32) -> Custom {
    let formula = |x: f32, t: f32, [epsilon, factor]: [f32; 2]| {
        let e = x - t;
        let root = (e * e + epsilon * epsilon).sqrt();
        (factor * root, factor * (e / root))
    };
    let charbonnier = Custom::new("Charbonnier", [("epsilon", 1e-3), ("factor", 1.0)], formula).unwrap().cuda(
        "const float e = x - t;
         const float root = sqrtf(e * e + epsilon * epsilon);
         value = factor * root;
         grad = factor * (e / root);",
    );
    charbonnier.option("epsilon", epsilon).and_then(|l| l.option("factor", factor)).unwrap()
}

/// That of [`Mse`](fused_loss::Mse), as something that both are measured by.
pub fn squared_error() -> Custom {
    let formula = |x: f32, t: f32, []: [f32; 0]| {
        let e = x - t;
        (e * e, 2.0 * e)
    };
    Custom::new("squared_error", [], formula).unwrap().cuda(
        "const float e = x - t;
         value = e * e;
         grad = 2.0f * e;",
    )
}

/// Without options, and with functions of the crate: binary cross-entropy on logits.
pub fn logistic() -> Custom {
    let formula = |x: f32, t: f32, []: [f32; 0]| {
        let l = fused_loss::math::logistic(x);
        ((1.0 - t) * l.softplus + t * l.softplus_neg, (1.0 - t) * l.sigmoid - t * l.sigmoid_neg)
    };
    Custom::new("logistic", [], formula).unwrap().cuda(
        "const fl::Logistic l = fl::logistic(x);
         value = (1.0f - t) * l.softplus + t * l.softplus_neg;
         grad = (1.0f - t) * l.sigmoid - t * l.sigmoid_neg;",
    )
}

/// Sums of the table of cases that have kernels of their own, as NVRTC would compile them.
pub const SUMS: [&str; 7] = [
    "combined_1_2_3_0_f32",
    "combined_1_2_3_0_general_f32",
    "combined_1_2_3_0_general_f16",
    "combined_5_11_f32",
    "combined_5_11_bf16",
    "combined_5_11_general_bf16",
    "combined_4_10_f32",
];

/// Their kernels, as files in this folder, for what compiles the kernels for the host.
pub fn sources(folder: PathBuf) -> Vec<PathBuf> {
    std::fs::create_dir_all(&folder).unwrap();
    let write = |file: &str, text: &str| {
        let path = folder.join(file).with_extension("cu");
        // Left alone if it is there, so that it need not be compiled again.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
            let own = path.with_extension(std::process::id().to_string());
            std::fs::write(&own, text).and_then(|()| std::fs::rename(&own, &path)).unwrap();
        }
        path
    };
    let losses =
        [expectile(0.5), charbonnier(1.0, 1.0), logistic(), squared_error()].map(|loss| launch::source(&loss).unwrap());
    let losses = losses.into_iter().map(|(file, text)| write(file, text));
    losses.chain(SUMS.map(|file| write(file, &launch::sum_source(file).unwrap()))).collect()
}
