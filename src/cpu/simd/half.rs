//! Conversions of one value between storage types, without a branch, for instruction sets that have none.

/// Half to float without a branch, so that it vectorises: the exponent is moved by a multiplication,
/// which also normalises subnormal halves.
#[cfg_attr(optimized, inline(always))]
pub(super) fn widen_f16(h: u16) -> f32 {
    let bits = u32::from(h);
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    // Infinity and NaN: the exponent field is all ones in both formats.
    let special = magnitude | 0x7f80_0000;
    let value = if (bits & 0x7c00) == 0x7c00 { special } else { scaled.to_bits() };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// Float to half, to nearest even, without a branch.
#[cfg_attr(optimized, inline(always))]
pub(super) fn narrow_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14 the half is subnormal: adding 0.5 makes the FPU round at the right place.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let rounded = if magnitude < 113 << 23 { subnormal } else { normal };
    // 65520 and above round to infinity.
    let finite = if magnitude >= 0x477f_f000 { 0x7c00 } else { rounded };
    let half = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13) & 0x3ff } else { finite };
    (half | (bits >> 16) & 0x8000) as u16
}

/// Float to bfloat, to nearest even, without a branch. The carry into the exponent is what overflow to
/// infinity is; a NaN keeps its sign and is made quiet, so that losing its low bits cannot make it infinity.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[cfg_attr(optimized, inline(always))]
pub(super) fn narrow_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let kept = if x.is_nan() { bits | 0x40_0000 } else { rounded };
    (kept >> 16) as u16
}
