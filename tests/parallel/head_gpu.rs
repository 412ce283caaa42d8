//! The head with its classes shared by ranks on GPUs.

use fused_loss::head::{CudaLinearGrads, LinearCrossEntropy};
use fused_loss::parallel::Vocab;
use fused_loss::{Cuda, Error, Reduction, Target};
use half::{bf16, f16};

use super::cases::gpu::{Copied, Targets};
use super::gpu::{Number, Through, on_gpus};
use super::head::{Got, Head, SHAPE, same};

/// The classes of a rank.
fn run<T: Number>(head: &Head<T>, cuda: &Cuda, vocab: &Vocab<'_>, budget: usize) -> Result<Got<T>, Error> {
    let ((tokens, hidden, _), from, here) = (SHAPE, vocab.first(), vocab.here());
    let mut got = Got {
        value: 0.0,
        losses: vec![0.0; tokens],
        input: vec![T::default(); tokens * hidden],
        weight: vec![0.0; here * hidden],
        bias: vec![0.0; here],
    };
    let input = Copied::new(cuda, &head.input);
    let weight = Copied::new(cuda, &head.weight[from * hidden..][..here * hidden]);
    let (bias, of_classes) =
        (Copied::new(cuda, &head.bias[from..][..here]), Copied::new(cuda, &head.of_classes[from..][..here]));
    let (of_tokens, target) = (Copied::new(cuda, &head.of_tokens), Targets::<T>::new(cuda, Target::I64(&head.target)));
    let (mut value, mut losses) = (Copied::new(cuda, &[f32::NAN]), Copied::new(cuda, &vec![f32::NAN; tokens]));
    let mut grad_input = Copied::new(cuda, &vec![T::from_f32(f32::NAN); tokens * hidden]);
    let (mut grad_weight, mut grad_bias) =
        (Copied::new(cuda, &vec![f32::NAN; here * hidden]), Copied::new(cuda, &vec![f32::NAN; here]));
    let linear = LinearCrossEntropy::new(head.loss).budget(budget);
    let on = linear.on(cuda);
    macro_rules! call {
        () => {
            on.call(input.get(), weight.get(), target.get(), (tokens, hidden, here))
                .bias(bias.get())
                .class_weight(of_classes.get())
                .token_weight(of_tokens.get())
                .grad_output(3.0)
                .across(vocab)
        };
    }
    call!().forward_unreduced(losses.get_mut())?;
    let grads = CudaLinearGrads {
        input: Some(grad_input.get_mut()),
        weight: Some(grad_weight.get_mut()),
        bias: Some(grad_bias.get_mut()),
    };
    call!().forward_backward(Reduction::Mean, value.get_mut(), grads)?;
    let mut back = [0.0];
    value.back(cuda, &mut back);
    got.value = back[0];
    losses.back(cuda, &mut got.losses);
    grad_input.back(cuda, &mut got.input);
    grad_weight.back(cuda, &mut got.weight);
    grad_bias.back(cuda, &mut got.bias);
    cuda.check()?;
    Ok(got)
}

/// `rounding`: of one rounding to the storage type. Gradients of logits are rounded to it before they are multiplied, and sums of them are no
/// better than their dozens of terms: hence a share of the largest.
fn check<T: Number>(through: Through, rounding: f32) {
    let head = Head::<T>::new();
    let whole = head.run(None, 0, SHAPE.2);
    for ranks in [1, 2, 3, 8] {
        // Unequal parts, but none of nothing.
        let borders: Vec<usize> = (0..=ranks).map(|r| (SHAPE.2 * r * r / (ranks * ranks)).max(r)).collect();
        // All tokens at once, and few.
        for budget in [1 << 20, 96 << 10] {
            on_gpus(ranks, through, |rank, cuda| {
                let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
                let vocab = Vocab::new(rank, to - from).unwrap();
                same(
                    &whole,
                    &run(&head, cuda, &vocab, budget).unwrap(),
                    (from, to),
                    [[4e-6 + rounding / 2.0, rounding]; 2],
                );
            });
        }
    }
}

#[test]
fn f32_is_that_of_one_device_on_gpus() {
    check::<f32>(Through::Host, 0.0);
}

#[test]
fn f16_is_that_of_one_device_on_gpus() {
    check::<f16>(Through::Host, f32::powi(2.0, -10));
}

#[test]
fn bf16_is_that_of_one_device_on_gpus() {
    check::<bf16>(Through::Host, f32::powi(2.0, -7));
}

#[test]
fn through_nccl_it_is_the_same_on_gpus() {
    check::<f32>(Through::Nccl, 0.0);
}

#[test]
fn a_rank_without_classes_is_an_error_of_all_on_gpus() {
    let head = Head::<f32>::new();
    let results = on_gpus(2, Through::Host, |rank, cuda| {
        let vocab = Vocab::new(rank, [SHAPE.2, 0][rank.rank()]).unwrap();
        run(&head, cuda, &vocab, 1 << 20).map(|got| got.value)
    });
    assert!(results.iter().flatten().all(|r| matches!(r, Err(Error::Unsupported { .. }))), "{results:?}");
}
