//! The head with its classes shared by ranks.

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::parallel::{Communicator, Vocab};
use fused_loss::{CrossEntropy, Element, Error, Reduction};
use half::bf16;

use super::{borders, on_ranks};
use crate::cases::draw::Rng;

struct Got<T> {
    value: f32,
    input: Vec<T>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn check<T: Element>(rounding: f32) {
    let (tokens, hidden, classes) = (50, 12, 70);
    let mut rng = Rng::new(3);
    let mut numbers = |n: usize| (0..n).map(|_| T::from_f32(rng.uniform(-1.0, 1.0) as f32)).collect::<Vec<T>>();
    let (input, weight, bias) = (numbers(tokens * hidden), numbers(classes * hidden), numbers(classes));
    let of_tokens: Vec<f32> = (0..tokens).map(|i| 0.5 + (i % 3) as f32).collect();
    let of_classes: Vec<f32> = (0..classes).map(|i| 0.5 + (i % 4) as f32).collect();
    let target: Vec<i64> = (0..tokens).map(|i| if i % 4 == 1 { -100 } else { (i * 11 % classes) as i64 }).collect();
    let loss = CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(1e-3).unwrap().softcap(5.0).unwrap();
    // The classes of a rank, with a vocabulary or of one device.
    let run = |vocab: Option<&Vocab<'_>>, from: usize, to: usize| {
        let here = to - from;
        let mut got = Got {
            value: 0.0,
            input: vec![T::default(); tokens * hidden],
            weight: vec![9.0; here * hidden],
            bias: vec![9.0; here],
        };
        let head = LinearCrossEntropy::new(loss).budget(1 << 14);
        let mut call = head.call(&input, &weight[from * hidden..to * hidden], &target, (tokens, hidden, here));
        call = call.bias(&bias[from..to]).class_weight(&of_classes[from..to]).token_weight(&of_tokens).grad_output(3.0);
        if let Some(vocab) = vocab {
            call = call.across(vocab);
        }
        let mut losses = vec![f32::NAN; tokens];
        call.forward_unreduced(&mut losses).unwrap();
        let grads =
            LinearGrads { input: Some(&mut got.input[..]), weight: Some(&mut got.weight), bias: Some(&mut got.bias) };
        got.value = call.forward_backward(Reduction::Mean, grads).unwrap();
        (got, losses)
    };
    let (whole, losses) = run(None, 0, classes);
    let close = |want: &[f32], got: &[f32], rounding: f32| {
        let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
        for (want, got) in want.iter().zip(got) {
            assert!(
                (want - got).abs() <= 4e-6 * largest + rounding * want.abs(),
                "{got}, of one device {want}, of {largest}"
            );
        }
    };
    let wide = |x: &[T]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    // Of 16 some have no class.
    for ranks in [1, 2, 3, 8, 16] {
        let borders = borders(classes, ranks);
        on_ranks(ranks, |rank| {
            let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
            let vocab = Vocab::new(rank, to - from).unwrap();
            let (got, of_tokens) = run(Some(&vocab), from, to);
            close(&[whole.value], &[got.value], 0.0);
            close(&losses, &of_tokens, 0.0);
            close(&wide(&whole.input), &wide(&got.input), rounding);
            close(&whole.weight[from * hidden..to * hidden], &got.weight, 0.0);
            close(&whole.bias[from..to], &got.bias, 0.0);
        });
    }
}

#[test]
fn f32_is_that_of_one_device() {
    check::<f32>(0.0);
}

#[test]
fn bf16_is_that_of_one_device() {
    check::<bf16>(f32::powi(2.0, -7));
}

#[test]
fn a_rank_with_another_shape_is_told_so() {
    let results = on_ranks(2, |rank| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let tokens = 2 + rank.rank();
        let (input, target) = ([0.5f32; 9], [0i64; 3]);
        let head = LinearCrossEntropy::default();
        let shape = (tokens, 3, 2);
        let call = head.call(&input[..3 * tokens], &[0.25f32; 6], &target[..tokens], shape).across(&vocab);
        assert!(matches!(
            head.call(&input[..3], &[0.25f32; 9], &target[..1], (1, 3, 3)).across(&vocab).forward(Reduction::Mean),
            Err(Error::Length { what: "weight", .. })
        ));
        call.forward(Reduction::Mean)
    });
    assert!(results.iter().all(|r| *r == Err(Error::RanksDisagree { rank: 1, expected: 2, got: 3 })), "{results:?}");
}
