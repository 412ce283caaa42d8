//! The head with its classes shared by ranks on GPUs.

use fused_loss::head::{CudaLinearGrads, LinearCrossEntropy};
use fused_loss::parallel::{Communicator, Vocab};
use fused_loss::{Cuda, Error, Reduction, Target};
use half::{bf16, f16};

use super::Dies;
use super::cases::gpu::{Copied, Targets};
use super::gpu::{Number, Through, late, on_gpus, through_nccl};
use super::head::{Got, Head, SHAPE, same};

/// The classes of a rank; `wait`: for what the GPU has been given.
fn run<T: Number>(
    head: &Head<T>,
    cuda: &Cuda,
    vocab: &Vocab<'_>,
    budget: usize,
    wait: &dyn Fn() -> Result<(), Error>,
) -> Result<Got<T>, Error> {
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
    wait()?;
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
                    &run(&head, cuda, &vocab, budget, &|| Ok(())).unwrap(),
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

/// Where the gradient of the input goes and how wide it is decides what ranks reduce, however many tokens they do at once.
#[test]
fn a_rank_with_other_hidden_numbers_gradients_or_budget_is_told_so_on_gpus() {
    let steps = |rank: &dyn Communicator, cuda: &Cuda, odd: bool| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let stream = cuda.stream();
        let target = stream.clone_htod(&[1i64; 4]).unwrap();
        let (x, w) = (stream.clone_htod(&[0.5f32; 16]).unwrap(), stream.clone_htod(&[0.25f32; 8]).unwrap());
        let (mut value, mut grad) = (stream.alloc_zeros::<f32>(1).unwrap(), stream.alloc_zeros::<f32>(16).unwrap());
        let mut call = |hidden: usize, asks: bool, budget: usize| {
            let (x, w) = (x.slice(..4 * hidden), w.slice(..2 * hidden));
            let linear = LinearCrossEntropy::default().budget(budget);
            let input = asks.then(|| grad.slice_mut(..4 * hidden).into());
            let grads = CudaLinearGrads { input, ..CudaLinearGrads::default() };
            let call = linear.on(cuda).call(&x, &w, &target, (4, hidden, 2)).across(&vocab);
            call.forward_backward(Reduction::Mean, &mut value, grads)
        };
        call(3, true, 1 << 20).unwrap();
        call(4, true, 1 << 20).unwrap();
        // The least budget is of one token at once; to be refused is no collective.
        let Err(Error::Budget { needed, .. }) = call(4, true, 0) else { panic!("0 is enough") };
        [
            call(if odd { 3 } else { 4 }, true, 1 << 20),
            call(4, !odd, 1 << 20),
            call(4, true, if odd { needed as usize } else { 1 << 20 }),
        ]
    };
    let results = on_gpus(2, Through::Host, |rank, cuda| steps(rank, cuda, rank.rank() == 1));
    assert!(results.iter().flatten().flatten().all(|r| *r == Err(Error::RanksDiffer { rank: 1 })), "{results:?}");
    // The first error ends the group.
    let results =
        through_nccl(2, |rank, cuda| steps(rank, cuda, rank.rank() == 1).map(|r| r.and_then(|()| rank.wait())));
    if let Some(results) = results {
        assert!(results[1].iter().all(|r| *r == Err(Error::RanksDiffer { rank: 1 })), "{results:?}");
        assert!(results[0].iter().all(|r| *r == Err(late())), "{results:?}");
    }
}

/// Whichever collective of a call it is to which a rank does not come.
#[test]
fn a_rank_that_dies_within_a_head_is_an_error_of_all_others_on_gpus() {
    let head = Head::<f32>::new();
    for through in [Through::Host, Through::Nccl] {
        // What is called, the weights of the targets, and of some chunks maxima and sums.
        for after in [0, 1, 2, 3, 4, 5] {
            let when = |rank: &dyn Communicator| if rank.rank() == 1 { after } else { usize::MAX };
            let half = SHAPE.2 / 2;
            let of = |rank: &dyn Communicator, cuda: &Cuda, wait: &dyn Fn() -> Result<(), Error>| {
                let vocab = Vocab::new(rank, half)?;
                run(&head, cuda, &vocab, 96 << 10, wait).map(|got| got.value)
            };
            let results = match through {
                Through::Host => {
                    on_gpus(2, through, |rank, cuda| Dies::new(rank, when(rank)).runs(|r| of(r, cuda, &|| Ok(()))).0)
                }
                Through::Nccl => {
                    through_nccl(2, |own, cuda| Dies::new(own, when(own)).runs(|rank| of(rank, cuda, &|| own.wait())).0)
                }
            };
            let lost = if through == Through::Host { Error::RankLost { rank: 1 } } else { late() };
            if let Some(results) = results {
                assert_eq!(results, [Some(Err(lost)), None], "{through:?}, after {after}");
            }
        }
    }
}

#[test]
fn a_rank_without_classes_is_an_error_of_all_on_gpus() {
    let head = Head::<f32>::new();
    let results = on_gpus(2, Through::Host, |rank, cuda| {
        let vocab = Vocab::new(rank, [SHAPE.2, 0][rank.rank()]).unwrap();
        run(&head, cuda, &vocab, 1 << 20, &|| Ok(())).map(|got| got.value)
    });
    assert!(results.iter().flatten().all(|r| matches!(r, Err(Error::Unsupported { .. }))), "{results:?}");
}
