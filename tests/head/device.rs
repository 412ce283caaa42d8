//! The head on a `Device`: a GPU's where there is one, else the CPU's.

use fused_loss::head::{BufferInfoNceGrads, BufferLinearGrads, InfoNce, InfoNceGrads, LinearCrossEntropy, LinearGrads};
use fused_loss::{Device, Element, Error, Reduction, Storable};
use half::bf16;

use super::contrastive::numbers;
use super::problem::{Problem, close};

fn check<T: Element + Storable>(rounding: f64) {
    let device = Device::auto();
    let problem = Problem::<T>::new((20, 16, 33), true);
    let (tokens, hidden, classes) = problem.shape;
    let floats = |x: &Option<Vec<f32>>| device.buffer(x.as_ref().unwrap()).unwrap();
    let (class_weight, token_weight) = (floats(&problem.class_weight), floats(&problem.token_weight));
    let [input, weight, bias] =
        [&problem.input, &problem.weight, problem.bias.as_ref().unwrap()].map(|x| device.buffer(x).unwrap());
    let target = device.buffer(&problem.target).unwrap();
    let mut grad_input = device.buffer(&vec![T::from_f32(0.5); tokens * hidden]).unwrap();
    let mut grad_weight = device.buffer(&vec![0.5; classes * hidden]).unwrap();
    let (mut grad_bias, mut losses) = (device.buffer(&vec![0.5; classes]).unwrap(), device.zeros(tokens).unwrap());

    let on = LinearCrossEntropy::new(problem.loss()).on(&device).class_weight(&class_weight).weight(&token_weight);
    let on = on.grad_output(4.0).accumulate();
    let call = || on.call(&input, &weight, &target, problem.shape).bias(&bias);
    let grads =
        BufferLinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: Some(&mut grad_bias) };
    let value = call().forward_backward(Reduction::Mean, grads).unwrap();
    call().forward_unreduced(&mut losses).unwrap();
    assert_eq!(call().forward(Reduction::Mean), Ok(value));

    let denominator = problem.denominator();
    let want = problem.answer(4.0 / denominator);
    let added = |x: &[f64]| x.iter().map(|x| x + 0.5).collect::<Vec<f64>>();
    close("value", &[want.losses.iter().sum::<f64>() / denominator], &[value], 2e-6);
    close("losses", &want.losses, &losses.to_vec().unwrap(), 2e-6);
    close("grad_input", &added(&want.input), &grad_input.to_vec().unwrap(), 3e-6 + 2.0 * rounding);
    close("grad_weight", &added(&want.weight), &grad_weight.to_vec().unwrap(), 3e-6 + rounding);
    close("grad_bias", &added(&want.bias), &grad_bias.to_vec().unwrap(), 3e-6 + rounding);
}

#[test]
fn on_a_gpu_or_none_a_device_gives_the_definition() {
    check::<f32>(0.0);
    check::<bf16>(f64::powi(2.0, -8));
}

#[test]
fn on_a_gpu_or_none_a_device_refuses_what_a_call_does() {
    let device = Device::auto();
    let shape = (2, 3, 4);
    let (input, weight) = (device.buffer(&[0.5f32; 6]).unwrap(), device.buffer(&[0.25f32; 12]).unwrap());
    let head = LinearCrossEntropy::default();
    let bad = device.buffer(&[1i32, 4]).unwrap();
    let index = Err(Error::ClassIndex { row: 1, index: 4, classes: 4 });
    assert_eq!(head.on(&device).call(&input, &weight, &bad, shape).forward(Reduction::Mean), index);
    let mut losses = device.zeros(2).unwrap();
    let unreduced = head.on(&device).call(&input, &weight, &bad, shape).forward_unreduced(&mut losses);
    assert_eq!(unreduced, index.map(drop));

    let good = device.buffer(&[1u8, 3]).unwrap();
    let mut short = device.zeros(5).unwrap();
    let grads = BufferLinearGrads { input: Some(&mut short), ..BufferLinearGrads::default() };
    let refused = head.on(&device).call(&input, &weight, &good, shape).forward_backward(Reduction::Mean, grads);
    let mut same = [0.0; 5];
    let grads = LinearGrads { input: Some(&mut same[..]), ..LinearGrads::default() };
    let call = head.call(&[0.5f32; 6], &[0.25; 12], &[1u8, 3], shape);
    assert_eq!(refused, call.forward_backward(Reduction::Mean, grads));
    assert!(matches!(refused, Err(Error::Length { .. })));
}

#[test]
fn on_a_gpu_or_none_infonce_gives_what_a_call_does() {
    let device = Device::auto();
    let shape = (7, 9, 5);
    let (x, y) = (numbers::<f32>(35, 1), numbers::<f32>(45, 2));
    let (mut first, mut second, mut of_scale) = (vec![0.25; 35], vec![0.25; 45], 0.25);
    let loss = InfoNce::one_way();
    let call = loss.call(&x, &y, shape).scale(3.0).grad_output(2.0).accumulate();
    let grads = InfoNceGrads { first: Some(&mut first), second: Some(&mut second), scale: Some(&mut of_scale) };
    let value = call.forward_backward(grads).unwrap();

    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (input, other) = (device.buffer(&x).unwrap(), device.buffer(&y).unwrap());
    let [mut to_first, mut to_second] = [35, 45].map(|n| device.buffer(&vec![0.25f32; n]).unwrap());
    let mut to_scale = 0.25;
    let on = loss.on(&device).grad_output(2.0).accumulate();
    let grads =
        BufferInfoNceGrads { first: Some(&mut to_first), second: Some(&mut to_second), scale: Some(&mut to_scale) };
    let got = on.call(&input, &other, shape).scale(3.0).forward_backward(grads).unwrap();
    close("value and scale", &[f64::from(value), f64::from(of_scale)], &[got, to_scale], 3e-6);
    close("first", &wide(&first), &to_first.to_vec().unwrap(), 4e-6);
    close("second", &wide(&second), &to_second.to_vec().unwrap(), 4e-6);
    assert_eq!(on.call(&input, &other, shape).scale(3.0).forward(), Ok(got));

    // Gradients of halves are f32, and weights are refused.
    let halves = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<bf16>>();
    let (x, y) = (halves(&x), halves(&y));
    let (input, other) = (device.buffer(&x).unwrap(), device.buffer(&y).unwrap());
    let grads = BufferInfoNceGrads { first: Some(&mut to_first), ..BufferInfoNceGrads::default() };
    loss.on(&device).call(&input, &other, shape).forward_backward(grads).unwrap();
    let mut first = [bf16::ZERO; 35];
    let grads = InfoNceGrads { first: Some(&mut first[..]), ..InfoNceGrads::default() };
    loss.call(&x, &y, shape).forward_backward(grads).unwrap();
    let rounded = first.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
    close("first", &rounded, &to_first.to_vec().unwrap(), f64::powi(2.0, -7));
    let weight = device.zeros(7).unwrap();
    let refused = loss.on(&device).weight(&weight).call(&input, &other, shape).forward();
    assert_eq!(refused, Err(Error::Unsupported { loss: "InfoNCE", what: "a weight" }));
}
