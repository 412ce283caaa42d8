//! In the middle of burn's graph, and of views.

use burn_tensor::{Device, Distribution, Gradients, Int, Tensor};
use fused_loss::burn::{OnPairs, OnTensors};
use fused_loss::{
    BceWithLogits, CrossEntropy, GanLoss, GanMode, Huber, LovaszHinge, LovaszSoftmax, Mse, Reduction,
    RelativisticAverage, RelativisticPair,
};

use super::{gradient, indices, leaf, numbers, tensor};

fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 4e-6 * largest, "{i}: {got} for {want}");
    }
}

#[test]
fn through_a_layer_and_a_factor() {
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::random([32, 8], Distribution::Normal(0.0, 1.0), &device);
    let w = Tensor::<2>::random([8, 5], Distribution::Normal(0.0, 1.0), &device).require_grad();
    let target = indices(&(0..32i64).map(|i| i % 5).collect::<Vec<_>>(), [32]);
    // One each: burn's `backward` uses a graph up.
    let logits = || x.clone().matmul(w.clone());
    // burn's own, of such logits.
    let log_softmax = burn_tensor::activation::log_softmax(logits(), 1);
    let on_device = Tensor::<1, Int>::from_data(target.to_data(), &device);
    let theirs = log_softmax.gather(1, on_device.unsqueeze_dim(1)).sum() * (-0.3 / 32.0);
    let ours = CrossEntropy::new().tensors(&logits(), &target).forward(Reduction::Mean).expect("a value") * 0.3;
    close(&numbers(&ours), &numbers(&theirs));
    close(&gradient(&ours, &w), &gradient(&theirs, &w));
}

#[test]
fn with_checkpointing() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let x = Tensor::<1>::from_data([0.5f32, 3.0], &device).require_grad();
    let t = Tensor::<1>::from_data([0f32, 1.0], &device);
    let loss = Mse::new().tensors(&(x.clone() * 2.0), &t).forward(Reduction::Sum).expect("a value");
    assert_eq!(gradient::<1, f32>(&(loss * 1.0), &x), [4.0, 20.0]);
}

#[test]
fn two_losses_of_one_tensor() {
    let (x, t) = (leaf(&[0.5f32, 3.0, -4.0], [3]), tensor(&[0f32; 3], [3]));
    let huber = Huber::new(1.0).expect("a delta above zero");
    let both = huber.tensors(&x, &t).forward(Reduction::Sum).expect("a value")
        + Mse::new().tensors(&x, &t).forward(Reduction::Sum).expect("a value") * 2.0;
    assert_eq!(gradient::<1, f32>(&both, &x), [0.5 + 2.0, 1.0 + 12.0, -1.0 - 16.0]);
}

#[test]
fn a_tensor_that_is_input_and_target() {
    let x = leaf(&[0.5f32, 3.0], [2]);
    let loss = Mse::new().tensors(&x, &x).forward(Reduction::Sum).expect("a value");
    assert_eq!((numbers::<1, f32>(&loss), gradient::<1, f32>(&loss, &x)), (vec![0.0], vec![0.0; 2]));
}

#[test]
fn a_target_alone() {
    let (x, t) = (tensor(&[0.5f32, 3.0], [2]), leaf(&[0f32, 1.0], [2]));
    for x in [x.clone(), x.inner()] {
        let loss = Mse::new().tensors(&x, &t).forward(Reduction::Sum).expect("a value");
        assert_eq!(gradient::<1, f32>(&loss, &t), [-1.0, -4.0]);
    }
}

#[test]
fn views() {
    let data: Vec<f32> = (0..60).map(|i| (i * 7 % 23) as f32 / 8.0 - 1.0).collect();
    let x = leaf(&data, [3, 4, 5]);
    let t = indices(&[0i64, 3, 1, 2, 2, 0, 1, 3, 0, 1, 2, 3, 0, 0, 1], [3, 5]);
    let first = CrossEntropy::new().tensors(&x, &t).forward_unreduced::<2>().expect("losses");
    let permuted = x.clone().permute([0, 2, 1]);
    let last = CrossEntropy::new().tensors(&permuted, &t).classes_last().forward_unreduced::<2>().expect("losses");
    assert_eq!((first.dims(), last.dims()), ([3, 5], [3, 5]));
    close(&numbers(&first), &numbers(&last));
    close(&gradient(&first.mean(), &x), &gradient(&last.mean(), &x));

    // A part, which begins in the middle of its storage.
    let part = x.clone().slice_dim(0, 1..3);
    let zeros = tensor(&[0f32; 40], [2, 4, 5]);
    let loss = Mse::new().tensors(&part, &zeros).forward(Reduction::Sum).expect("a value");
    let want: Vec<f32> = data.iter().enumerate().map(|(i, x)| if i < 20 { 0.0 } else { 2.0 * x }).collect();
    assert_eq!(gradient::<3, f32>(&loss, &x), want);
}

#[test]
fn numbers_that_are_hard() {
    let loss = |logit: f32| {
        let (x, t) = (leaf(&[logit], [1]), tensor(&[0f32], [1]));
        let loss = BceWithLogits::new().tensors(&x, &t).forward(Reduction::Mean).expect("a value");
        (numbers::<1, f32>(&loss)[0], gradient::<1, f32>(&loss, &x)[0])
    };
    assert_eq!(loss(20.0), (20.0, 1.0));
    assert_eq!(loss(200.0), (200.0, 1.0));
    // An f16 gradient that only the loss scale saves.
    let n = 100_000;
    let x = leaf(&vec![half::f16::ONE; n], [n]);
    let t = tensor(&vec![half::f16::from_f32(0.999); n], [n]);
    let loss = Mse::new().tensors(&x, &t).forward(Reduction::Mean).expect("a value") * 65536.0;
    let want = half::f16::from_f32(2.0 * (1.0 - half::f16::from_f32(0.999).to_f32()) * 65536.0 / n as f32);
    assert_eq!(gradient::<1, half::f16>(&loss, &x)[..3], [want; 3]);
}

#[test]
fn gans() {
    let (real, fake) = ([1.2f32, -0.3, 0.8], [-0.5f32, 0.4]);
    let (r, f) = (leaf(&real, [3]), leaf(&fake, [2]));
    let (mut on_real, mut on_fake) = ([0.0; 3], [0.0; 2]);
    let gan = GanLoss::new(GanMode::LeastSquares);
    let want = gan.discriminator(&real, &fake, Reduction::Mean, &mut on_real, &mut on_fake).expect("a value");
    let loss = gan.pair(&r, &f).discriminator(Reduction::Mean).expect("a value");
    assert_eq!(numbers::<1, f32>(&loss), [want]);
    let grads = loss.backward();
    let on = |x: &Tensor<1>, grads: &Gradients| numbers::<1, f32>(&x.grad(grads).expect("a gradient"));
    assert_eq!((on(&r, &grads), on(&f, &grads)), (on_real.to_vec(), on_fake.to_vec()));
    let loss = gan.pair(&r, &f).generator(Reduction::Mean).expect("a value");
    let want = gan.generator(&fake, Reduction::Mean, &mut on_fake).expect("a value");
    assert_eq!((numbers::<1, f32>(&loss), gradient::<1, f32>(&loss, &f)), (vec![want], on_fake.to_vec()));

    let ragan = RelativisticAverage::new();
    for of_generator in [false, true] {
        let call = ragan.pair(&r, &f);
        let (want, loss) = if of_generator {
            (ragan.generator(&real, &fake, &mut on_real, &mut on_fake), call.generator())
        } else {
            (ragan.discriminator(&real, &fake, &mut on_real, &mut on_fake), call.discriminator())
        };
        let loss = loss.expect("a value");
        assert_eq!(numbers::<1, f32>(&loss), [want.expect("a value")]);
        let grads = loss.backward();
        assert_eq!((on(&r, &grads), on(&f, &grads)), (on_real.to_vec(), on_fake.to_vec()));
    }

    let f = leaf(&[-0.5f32, 0.4, 0.1], [3]);
    let pair = RelativisticPair.tensors(&f, &r).forward(Reduction::Mean).expect("a value").backward();
    assert!(on(&f, &pair).iter().zip(&on(&r, &pair)).all(|(f, r)| f == &-r && *f > 0.0));
}

/// Which the case table does not have, for numerical differentiation would cross from one order of errors to another.
#[test]
fn lovasz_is_that_of_slices() {
    let x: Vec<f32> = (0..24).map(|i| ((i * 7) % 11) as f32 / 4.0 - 1.0).collect();
    let masks: Vec<f32> = (0..24).map(|i| (i % 3 % 2) as f32).collect();
    let index: Vec<i64> = (0..8).map(|i| i % 4).collect();
    let input = leaf(&x, [2, 3, 4]);
    let mut grad = vec![0.0; 24];
    let loss =
        LovaszHinge::new().tensors(&input, &tensor(&masks, [2, 3, 4])).forward(Reduction::Mean).expect("a value");
    let want = LovaszHinge::new().forward_backward(&x, &masks, [2, 3, 4], Reduction::Mean, &mut grad).expect("a value");
    assert_eq!((numbers::<1, f32>(&loss), gradient::<3, f32>(&loss, &input)), (vec![want], grad.clone()));
    let of = LovaszSoftmax::new().ignore_index(3);
    let input = leaf(&x, [2, 3, 4]);
    let loss = of.tensors(&input, &indices(&index, [2, 4])).forward(Reduction::Mean).expect("a value");
    let want = of.forward_backward(&x, &index, [2, 3, 4], Reduction::Mean, &mut grad).expect("a value");
    assert_eq!((numbers::<1, f32>(&loss), gradient::<3, f32>(&loss, &input)), (vec![want], grad));
}
