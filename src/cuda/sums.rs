//! The kernel of one sum of element-wise losses, one storage type and one way of calling: a file of three lines beside those of `kernels/`,
//! which NVRTC compiles when it is first called. Without NVRTC, `kernels/combined.cu` has kernels of any sum, of the same bits.

use super::marshal::Name;
use super::params;
use super::request::Dtype;

/// The name of the kernel, `fl_combined_0_1_general_f32` of the kinds 0 and 1 (see `TERM_MSE`), and without `general` for calls that carry
/// nothing more. That of its file is the same without `fl_`.
pub(super) fn name(kinds: &[u32], general: bool, dtype: Dtype) -> Name {
    const KINDS: [&str; 19] = [
        "_0", "_1", "_2", "_3", "_4", "_5", "_6", "_7", "_8", "_9", "_10", "_11", "_12", "_13", "_14", "_15", "_16",
        "_17", "_18",
    ];
    let mut parts = [""; 2 + params::MAX_TERMS as usize];
    parts[0] = START;
    for (part, &kind) in parts[1..].iter_mut().zip(kinds) {
        // A call that carries more may carry weights of classes.
        let kind = if general && kind == params::TERM_BCE_PLAIN { params::TERM_BCE_WITH_LOGITS } else { kind };
        *part = KINDS[kind as usize];
    }
    parts[1 + kinds.len()] = if general { GENERAL } else { "" };
    Name::new(&parts, dtype)
}

const START: &str = "combined";
const GENERAL: &str = "_general";

/// The text of such a file.
pub(crate) fn source(file: &str) -> Option<String> {
    let (stem, dtype) = file.strip_prefix(START)?.rsplit_once('_')?;
    let (stem, general) = stem.strip_suffix(GENERAL).map_or((stem, false), |stem| (stem, true));
    let kinds = stem.strip_prefix('_')?.split('_').map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
    let storage = match dtype {
        "f32" => "float",
        "f16" => "fl::f16",
        "bf16" => "fl::bf16",
        _ => return None,
    };
    let blocks = blocks(&kinds, general, dtype == "f32");
    let kinds = kinds.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    Some(format!(
        "#include \"combined.cuh\"\n\ntypedef TheseTerms<{kinds}> Sum;\nCOMBINED({file}, {storage}, {general}, Sum, {blocks})\n"
    ))
}

/// Blocks an SM: as many as spill no registers (by ptxas for sm_90), of f32 no more than kernels of one loss have. (H200, 2^28 bf16: MSE and
/// MAE take 1.14 times MSE with three blocks.)
fn blocks(kinds: &[u32], general: bool, f32: bool) -> u32 {
    let heavy = |kind: &u32| match *kind {
        params::TERM_MSE | params::TERM_MAE | params::TERM_HUBER | params::TERM_SMOOTH_L1 => 1,
        params::TERM_HINGE | params::TERM_SQUARED_HINGE | params::TERM_QUANTILE => 1,
        params::TERM_BCE_WITH_LOGITS | params::TERM_BCE_PLAIN | params::TERM_SIGMOID_FOCAL => 2,
        params::TERM_SIGMOID_FOCAL_ANY => 4,
        _ => 3, // logarithms
    };
    match (general, f32, kinds.iter().map(heavy).sum()) {
        (false, true, ..=9) => 3,
        (false, false, ..=2) => 5,
        (false, false, ..=4) => 4,
        (false, false, ..=8) => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_what_it_is_for() {
        let [long, short] = [Dtype { name: "bf16", bytes: 2 }, Dtype { name: "f32", bytes: 4 }];
        assert_eq!(name(&[12, 12, 12, 12], true, long).text(), "fl_combined_12_12_12_12_general_bf16");
        assert_eq!(name(&[0, 11], false, short).file(), "combined_0_11_f32");
        assert_eq!(name(&[13, 11], false, short).file(), "combined_13_11_f32");
        assert_eq!(name(&[13, 11], true, short).file(), "combined_5_11_general_f32");
        let text = source("combined_0_11_f32").unwrap();
        assert!(
            text.contains("TheseTerms<0, 11>") && text.contains("COMBINED(combined_0_11_f32, float, false, "),
            "{text}"
        );
        assert!(source("combined_3_general_bf16").unwrap().contains("fl::bf16, true, "));
        for other in ["combined", "combined_rows", "combined_", "combined_0_1", "combined_general_f32", "mse"] {
            assert_eq!(source(other), None);
        }
    }
}
