//! InfoNCE against its definition in f64, and against open_clip and PyTorch.

use fused_loss::head::{InfoNce, InfoNceGrads, InfoNceShape};
use fused_loss::{Element, Error};
use half::{bf16, f16};

use super::golden::{self, Case};
use super::problem::close;

/// Value, and gradients for both batches and the scale.
struct Answer {
    value: f64,
    first: Vec<f64>,
    second: Vec<f64>,
    scale: f64,
}

/// The definition. `smoothing` is of the targets.
fn definition<T: Element>(
    x: &[T],
    y: &[T],
    InfoNceShape { pairs, candidates, hidden }: InfoNceShape,
    (both, smoothing, scale, upstream): (bool, f64, f64, f64),
) -> Answer {
    let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<_>>();
    let (x, y) = (wide(x), wide(y));
    let dot = |i: usize, j: usize| (0..hidden).map(|k| x[i * hidden + k] * y[j * hidden + k]).sum::<f64>();
    let (mut value, mut g) = (0.0, vec![0.0; pairs * candidates]);
    // Of one way: its logits, which of them belongs, and their places.
    let mut way = |places: Vec<usize>, own: usize, part: f64| {
        let z: Vec<f64> = places.iter().map(|&p| scale * dot(p / candidates, p % candidates)).collect();
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
        let lse = max + sum.ln();
        for (k, (&place, &z)) in places.iter().zip(&z).enumerate() {
            let target = smoothing / places.len() as f64 + if k == own { 1.0 - smoothing } else { 0.0 };
            value += part * target * (lse - z);
            g[place] += part * upstream * ((z - lse).exp() - target);
        }
    };
    let part = if both { 0.5 } else { 1.0 } / pairs as f64;
    for i in 0..pairs {
        way((0..candidates).map(|j| i * candidates + j).collect(), i, part);
        if both {
            way((0..pairs).map(|k| k * candidates + i).collect(), i, part);
        }
    }
    let mut answer = Answer { value, first: vec![0.0; x.len()], second: vec![0.0; y.len()], scale: 0.0 };
    for i in 0..pairs {
        for j in 0..candidates {
            let g = g[i * candidates + j];
            answer.scale += g * dot(i, j);
            for k in 0..hidden {
                answer.first[i * hidden + k] += scale * g * y[j * hidden + k];
                answer.second[j * hidden + k] += scale * g * x[i * hidden + k];
            }
        }
    }
    answer
}

/// Numbers between -1 and 1.
pub fn numbers<T: Element>(n: usize, seed: u64) -> Vec<T> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..n).map(|_| T::from_f32(2.0 * rng.f32() - 1.0)).collect()
}

/// `rounding`: of one rounding to the storage type.
fn check<T: Element>(rounding: f64) {
    for (pairs, candidates, hidden) in [(1, 1, 1), (2, 2, 3), (7, 7, 5), (33, 33, 16), (5, 9, 4), (40, 100, 8)] {
        let shape = InfoNceShape::from((pairs, candidates, hidden));
        let (x, y) = (numbers::<T>(pairs * hidden, 1), numbers::<T>(candidates * hidden, 2));
        for both in [true, false] {
            if both && pairs != candidates {
                continue;
            }
            for (smoothing, scale) in [(0.0, 1.0), (0.125, 14.0), (0.0, -3.0), (0.0, 0.0)] {
                let loss = if both { InfoNce::new() } else { InfoNce::one_way() };
                let loss = loss.label_smoothing(smoothing).unwrap();
                let want = definition(&x, &y, shape, (both, smoothing.into(), scale, 4.0));
                let least = match loss.budget(0).call(&x, &y, shape).forward() {
                    Err(Error::Budget { needed, .. }) => needed as usize,
                    other => panic!("{other:?}"),
                };
                for budget in [least, 3 * least, 1 << 26] {
                    let loss = loss.budget(budget);
                    let call = loss.call(&x, &y, shape).scale(scale as f32).grad_output(4.0);
                    let nan = T::from_f32(f32::NAN);
                    let (mut first, mut second, mut of_scale) = (vec![nan; x.len()], vec![nan; y.len()], f32::NAN);
                    let value = call
                        .forward_backward(InfoNceGrads {
                            first: Some(&mut first),
                            second: Some(&mut second),
                            scale: Some(&mut of_scale),
                        })
                        .unwrap();
                    close("value", &[want.value], &[value], 3e-6);
                    close("first", &want.first, &first, 4e-6 + rounding);
                    close("second", &want.second, &second, 4e-6 + rounding);
                    // Of numbers that are as large as the gradients, and cancel.
                    let size: f64 = want.first.iter().zip(&x).map(|(g, x)| (g * f64::from(x.to_f32())).abs()).sum();
                    let error = (f64::from(of_scale) - want.scale).abs();
                    assert!(error <= 1e-5 * (size / scale.abs().max(1.0) + want.scale.abs() + 1e-3), "{of_scale}");
                    assert_eq!(call.forward().unwrap(), value);
                    // What is asked for alone is the same.
                    let mut alone = f32::NAN;
                    let only = InfoNceGrads { scale: Some(&mut alone), ..InfoNceGrads::default() };
                    call.forward_backward(only).unwrap();
                    assert_eq!(alone, of_scale);
                    let mut alone = vec![nan; y.len()];
                    let only = InfoNceGrads { second: Some(&mut alone[..]), ..InfoNceGrads::default() };
                    call.forward_backward(only).unwrap();
                    assert!(alone.iter().zip(&second).all(|(a, b)| a.to_f32() == b.to_f32()));
                }
            }
        }
    }
}

#[test]
fn f32_is_the_definition() {
    check::<f32>(0.0);
}

#[test]
fn f16_is_the_definition() {
    check::<f16>(f64::powi(2.0, -11));
}

#[test]
fn bf16_is_the_definition() {
    check::<bf16>(f64::powi(2.0, -8));
}

/// A golden case: the loss, both batches, their shape and the scale.
fn recorded(case: &Case) -> (InfoNce, Vec<f32>, Vec<f32>, InfoNceShape, f32) {
    let loss = if case.flag("both") { InfoNce::new() } else { InfoNce::one_way() };
    let loss = loss.label_smoothing(case.option("label_smoothing").unwrap_or(0.0) as f32).unwrap();
    let [first, second, scale] = ["first", "second", "scale"].map(|key| case.floats(key).unwrap());
    (loss, first, second, case.shape().into(), scale[0])
}

#[test]
fn open_clip_and_pytorch_give_the_same() {
    for case in golden::cases("info_nce") {
        let (loss, x, y, shape, scale) = recorded(&case);
        let (mut first, mut second, mut of_scale) = (vec![f32::NAN; x.len()], vec![f32::NAN; y.len()], f32::NAN);
        let grads = InfoNceGrads { first: Some(&mut first), second: Some(&mut second), scale: Some(&mut of_scale) };
        let call = loss.call(&x, &y, shape).scale(scale).grad_output(4.0);
        case.check("value", &[call.forward_backward(grads).unwrap()], golden::HERE);
        case.check("grad_first", &first, golden::HERE);
        case.check("grad_second", &second, golden::HERE);
        case.check("grad_scale", &[of_scale], golden::HERE);
    }
}

#[test]
fn accumulating_adds() {
    fn adds<T: Element>() {
        let (x, y) = (numbers::<T>(15, 3), numbers::<T>(15, 4));
        let call = InfoNce::new().call(&x, &y, (5, 3)).scale(3.0);
        let gradients = |accumulate: bool, start: f32| {
            let (mut first, mut second) = (vec![T::from_f32(start); 15], vec![T::from_f32(start); 15]);
            let mut scale = start;
            let grads = InfoNceGrads { first: Some(&mut first), second: Some(&mut second), scale: Some(&mut scale) };
            let call = if accumulate { call.accumulate() } else { call };
            call.forward_backward(grads).unwrap();
            let mut all: Vec<f32> = first.iter().chain(&second).map(|g| g.to_f32()).collect();
            all.push(scale);
            all
        };
        let (added, own) = (gradients(true, 0.5), gradients(false, f32::NAN));
        for (added, own) in added.iter().zip(own) {
            assert!((added - (0.5 + own)).abs() <= 2e-2 * own.abs().max(0.5), "{added} {own}");
        }
    }
    adds::<f32>();
    adds::<bf16>();
}

#[test]
fn bad_calls_are_refused() {
    let x = [0.5f32; 6];
    let call = |shape: (usize, usize, usize)| InfoNce::one_way().call(&x, &x, shape).forward();
    assert_eq!(call((4, 2, 3)).unwrap_err().to_string(), "InfoNCE: fewer candidates than pairs is not supported");
    assert!(matches!(call((2, 3, 3)), Err(Error::Length { what: "second", expected: 9, got: 6 })));
    let both = InfoNce::new().call(&x[..3], &x, (1, 2, 3)).forward();
    assert!(matches!(both, Err(Error::Unsupported { .. })));
    for scale in [f32::NAN, f32::INFINITY] {
        let call = InfoNce::new().call(&x, &x, (2, 3)).scale(scale).forward();
        assert!(matches!(call, Err(Error::Option { name: "scale", .. })));
    }
    let (mut short, mut scale) = ([7.0; 5], 7.0);
    let grads = InfoNceGrads { first: Some(&mut short[..]), scale: Some(&mut scale), ..InfoNceGrads::default() };
    let refused = InfoNce::new().call(&x, &x, (2, 3)).forward_backward(grads);
    assert!(matches!(refused, Err(Error::Length { what: "grad_first", expected: 6, got: 5 })));
    assert_eq!((short, scale), ([7.0; 5], 7.0));
    assert!(InfoNce::new().call::<f32>(&[], &[], (0, 3)).forward().unwrap().is_nan());
}

#[cfg(feature = "cuda")]
mod gpu {
    use fused_loss::cudarc::driver::{DeviceRepr, ValidAsZeroBits};
    use fused_loss::head::CudaInfoNceGrads;
    use fused_loss::{Cuda, Result};

    use super::super::cases::gpu::{Copied, cuda};
    use super::*;

    /// Gradients of a call, and its value.
    struct Got {
        value: f32,
        first: Vec<f32>,
        second: Vec<f32>,
        scale: f32,
    }

    /// One call with everything; buffers are full of `start` before.
    fn backward<T: Element + DeviceRepr + ValidAsZeroBits + Default>(
        cuda: &Cuda,
        (loss, x, y, shape): (InfoNce, &[T], &[T], InfoNceShape),
        (scale, on_device, start): (f32, bool, Option<f32>),
    ) -> Result<Got> {
        let full = start.unwrap_or(f32::NAN);
        let (x_there, y_there) = (Copied::new(cuda, x), Copied::new(cuda, y));
        let mut first = Copied::new(cuda, &vec![full; x.len()]);
        let mut second = Copied::new(cuda, &vec![full; y.len()]);
        let (mut value, mut of_scale) = (Copied::new(cuda, &[f32::NAN]), Copied::new(cuda, &[full]));
        let (there, upstream) = (Copied::new(cuda, &[scale]), Copied::new(cuda, &[4.0]));
        let call = loss.on(cuda).call(x_there.get(), y_there.get(), shape);
        let call = if on_device { call.scale(there.get()) } else { call.scale(scale) };
        let call = if on_device { call.grad_output(upstream.get()) } else { call.grad_output(4.0) };
        let call = if start.is_some() { call.accumulate() } else { call };
        let grads = CudaInfoNceGrads {
            first: Some(first.get_mut()),
            second: Some(second.get_mut()),
            scale: Some(of_scale.get_mut()),
        };
        call.forward_backward(value.get_mut(), grads)?;
        cuda.check()?;
        let mut got = Got { value: 0.0, first: vec![0.0; x.len()], second: vec![0.0; y.len()], scale: 0.0 };
        value.back(cuda, std::slice::from_mut(&mut got.value));
        first.back(cuda, &mut got.first);
        second.back(cuda, &mut got.second);
        of_scale.back(cuda, std::slice::from_mut(&mut got.scale));
        Ok(got)
    }

    /// `rounding`: of one rounding to the storage type, which gradients of similarities go through before they are multiplied.
    fn check<T: Element + DeviceRepr + ValidAsZeroBits + Default>(rounding: f64) {
        let Some(cuda) = cuda() else { return };
        for (pairs, candidates, hidden) in [(1, 1, 1), (7, 7, 5), (33, 33, 16), (5, 9, 4)] {
            let shape = InfoNceShape::from((pairs, candidates, hidden));
            let (x, y) = (numbers::<T>(pairs * hidden, 1), numbers::<T>(candidates * hidden, 2));
            for both in [true, false] {
                if both && pairs != candidates {
                    continue;
                }
                for (smoothing, scale, on_device) in [(0.0, 1.0, false), (0.125, 14.0, true), (0.0, -3.0, true)] {
                    let loss = if both { InfoNce::new() } else { InfoNce::one_way() };
                    let loss = loss.label_smoothing(smoothing).unwrap();
                    let want = definition(&x, &y, shape, (both, smoothing.into(), scale, 4.0));
                    let mut value = Copied::new(cuda, &[0.0]);
                    let (a, b) = (Copied::new(cuda, &x), Copied::new(cuda, &y));
                    let needed = loss.budget(0).on(cuda).call(a.get(), b.get(), shape).forward(value.get_mut());
                    let Err(Error::Budget { needed, .. }) = needed else { panic!("{needed:?}") };
                    for budget in [needed as usize, 1 << 24] {
                        let call = (loss.budget(budget), &x[..], &y[..], shape);
                        let got = backward(cuda, call, (scale as f32, on_device, None)).unwrap();
                        close("value", &[want.value], &[got.value], 3e-6);
                        close("first", &want.first, &got.first, 4e-6 + 2.0 * rounding);
                        close("second", &want.second, &got.second, 4e-6 + 2.0 * rounding);
                        let size: f64 = want.first.iter().zip(&x).map(|(g, x)| (g * f64::from(x.to_f32())).abs()).sum();
                        let error = (f64::from(got.scale) - want.scale).abs();
                        assert!(error <= (1e-5 + 2.0 * rounding) * (size + 1e-3), "{} {}", got.scale, want.scale);
                        let added = backward(cuda, call, (scale as f32, on_device, Some(0.5))).unwrap();
                        assert_eq!(added.value, got.value);
                        let gradients = got.first.iter().chain(&got.second).chain([&got.scale]);
                        for (own, added) in gradients.zip(added.first.iter().chain(&added.second).chain([&added.scale]))
                        {
                            assert!((added - (0.5 + own)).abs() <= 1e-6 * (own.abs() + 1.0), "{added} {own}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn f32_is_the_definition_on_a_gpu() {
        check::<f32>(0.0);
    }

    #[test]
    fn f16_is_the_definition_on_a_gpu() {
        check::<f16>(f64::powi(2.0, -11));
    }

    #[test]
    fn bf16_is_the_definition_on_a_gpu() {
        check::<bf16>(f64::powi(2.0, -8));
    }

    #[test]
    fn open_clip_and_pytorch_give_the_same_on_a_gpu() {
        let Some(cuda) = cuda() else { return };
        for case in golden::cases("info_nce") {
            let (loss, x, y, shape, scale) = recorded(&case);
            let got = backward(cuda, (loss, &x, &y, shape), (scale, false, None)).unwrap();
            case.check("value", &[got.value], golden::ON_A_GPU);
            case.check("grad_first", &got.first, golden::ON_A_GPU);
            case.check("grad_second", &got.second, golden::ON_A_GPU);
            case.check("grad_scale", &[got.scale], golden::ON_A_GPU);
        }
    }

    #[test]
    fn bad_calls_are_refused_on_a_gpu() {
        let Some(cuda) = cuda() else { return };
        let x = [0.5f32; 6];
        let call = |shape: (usize, usize, usize), scale: f32| {
            let call = (InfoNce::one_way(), &x[..], &x[..], InfoNceShape::from(shape));
            backward(cuda, call, (scale, false, None)).map(|got| got.value)
        };
        assert!(matches!(call((4, 2, 3), 1.0), Err(Error::Unsupported { .. })));
        assert!(matches!(call((2, 3, 3), 1.0), Err(Error::Length { what: "second", expected: 9, got: 6 })));
        assert!(matches!(call((2, 2, 3), f32::NAN), Err(Error::Option { name: "scale", .. })));
        assert!(matches!(call((0, 2, 3), 1.0), Err(Error::Length { what: "first", .. })));
    }
}
