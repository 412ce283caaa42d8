//! The head with its classes shared by ranks.

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::parallel::{Communicator, Vocab};
use fused_loss::{CrossEntropy, Element, Error, Reduction};
use half::bf16;

use super::{Dies, borders, on_ranks};
use crate::cases::draw::Rng;

pub const SHAPE: (usize, usize, usize) = (50, 12, 70);

/// A head with everything: bias, weights, ignored tokens, all options.
pub struct Head<T> {
    pub input: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Vec<T>,
    pub of_tokens: Vec<f32>,
    pub of_classes: Vec<f32>,
    pub target: Vec<i64>,
    pub loss: CrossEntropy,
}

/// What comes of a rank.
pub struct Got<T> {
    pub value: f32,
    pub losses: Vec<f32>,
    pub input: Vec<T>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl<T: Element> Head<T> {
    pub fn new() -> Self {
        let (tokens, hidden, classes) = SHAPE;
        let mut rng = Rng::new(3);
        let mut numbers = |n: usize| (0..n).map(|_| T::from_f32(rng.uniform(-1.0, 1.0) as f32)).collect::<Vec<T>>();
        Head {
            input: numbers(tokens * hidden),
            weight: numbers(classes * hidden),
            bias: numbers(classes),
            of_tokens: (0..tokens).map(|i| 0.5 + (i % 3) as f32).collect(),
            of_classes: (0..classes).map(|i| 0.5 + (i % 4) as f32).collect(),
            target: (0..tokens).map(|i| if i % 4 == 1 { -100 } else { (i * 11 % classes) as i64 }).collect(),
            loss: CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(1e-3).unwrap().softcap(5.0).unwrap(),
        }
    }

    /// The classes of a rank on the CPU, with a vocabulary or of one device.
    pub fn run(&self, vocab: Option<&Vocab<'_>>, from: usize, to: usize) -> Got<T> {
        let ((tokens, hidden, _), here) = (SHAPE, to - from);
        let mut got = Got {
            value: 0.0,
            losses: vec![f32::NAN; tokens],
            input: vec![T::default(); tokens * hidden],
            weight: vec![9.0; here * hidden],
            bias: vec![9.0; here],
        };
        let head = LinearCrossEntropy::new(self.loss).budget(1 << 14);
        let weight = &self.weight[from * hidden..to * hidden];
        let mut call = head.call(&self.input, weight, &self.target, (tokens, hidden, here)).bias(&self.bias[from..to]);
        call = call.class_weight(&self.of_classes[from..to]).token_weight(&self.of_tokens).grad_output(3.0);
        if let Some(vocab) = vocab {
            call = call.across(vocab);
        }
        call.forward_unreduced(&mut got.losses).unwrap();
        let grads =
            LinearGrads { input: Some(&mut got.input[..]), weight: Some(&mut got.weight), bias: Some(&mut got.bias) };
        got.value = call.forward_backward(Reduction::Mean, grads).unwrap();
        got
    }
}

/// To these shares of the largest, and of the number itself.
fn close(want: &[f32], got: &[f32], [of_largest, of_each]: [f32; 2]) {
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    for (want, got) in want.iter().zip(got) {
        let allowed = of_largest * largest + of_each * want.abs();
        assert!((want - got).abs() <= allowed, "{got}, of one device {want}, of {largest}");
    }
}

/// Whether a rank has what is its own of one device's; how close gradients of the input are, and of weight and bias.
pub fn same<T: Element>(whole: &Got<T>, got: &Got<T>, (from, to): (usize, usize), [input, weight]: [[f32; 2]; 2]) {
    let wide = |x: &[T]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    let hidden = SHAPE.1;
    close(&[whole.value], &[got.value], [4e-6, 0.0]);
    close(&whole.losses, &got.losses, [4e-6, 0.0]);
    close(&wide(&whole.input), &wide(&got.input), input);
    close(&whole.weight[from * hidden..to * hidden], &got.weight, weight);
    close(&whole.bias[from..to], &got.bias, weight);
}

fn check<T: Element>(rounding: f32) {
    let head = Head::<T>::new();
    let whole = head.run(None, 0, SHAPE.2);
    // Of 16 some have no class.
    for ranks in [1, 2, 3, 8, 16] {
        let borders = borders(SHAPE.2, ranks);
        on_ranks(ranks, |rank| {
            let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
            let vocab = Vocab::new(rank, to - from).unwrap();
            same(&whole, &head.run(Some(&vocab), from, to), (from, to), [[4e-6, rounding], [4e-6, 0.0]]);
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
fn a_rank_with_other_hidden_numbers_or_gradients_is_told_so() {
    let results = on_ranks(2, |rank| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let (input, weight, target) = ([0.5f32; 8], [0.25f32; 8], [0i64; 2]);
        let call = |hidden: usize| {
            let (input, weight) = (&input[..2 * hidden], &weight[..2 * hidden]);
            LinearCrossEntropy::default().call(input, weight, &target, (2, hidden, 2)).across(&vocab)
        };
        fn of_input(input: Option<&mut [f32]>) -> LinearGrads<'_, f32> {
            LinearGrads { input, weight: None, bias: None }
        }
        let mut grad = vec![0.0; 2 * (3 + rank.rank())];
        let hidden = call(3 + rank.rank()).forward_backward(Reduction::Mean, of_input(Some(&mut grad)));
        let asked = Some(&mut grad[..6]).filter(|_| rank.rank() == 1);
        let gradient = call(3).forward_backward(Reduction::Mean, of_input(asked));
        // The group goes on; a gradient that ranks do not share may be asked for by one of them.
        let (mut own, mut grad) = (vec![0.0; 6], vec![0.0; 6]);
        let own = Some(&mut own[..]).filter(|_| rank.rank() == 1);
        let grads = LinearGrads { input: Some(&mut grad[..]), weight: own, bias: None };
        call(3).forward_backward(Reduction::Mean, grads).unwrap();
        [hidden, gradient]
    });
    assert!(results.iter().flatten().all(|r| *r == Err(Error::RanksDiffer { rank: 1 })), "{results:?}");
}

/// Whichever collective of a call it is to which a rank does not come.
#[test]
fn a_rank_that_dies_within_a_head_is_an_error_of_all_others() {
    let head = Head::<f32>::new();
    let (borders, mut come) = (borders(SHAPE.2, 3), usize::MAX);
    for after in 0.. {
        let results = on_ranks(3, |rank| {
            let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
            let dies = Dies::new(rank, if rank.rank() == 1 { after } else { usize::MAX });
            // Its own unwrap is not what this is about.
            dies.runs(|rank| {
                let vocab = Vocab::new(rank, to - from)?;
                let ((tokens, hidden, _), here) = (SHAPE, to - from);
                let mut grad = vec![0.0; tokens * hidden];
                let grads = LinearGrads { input: Some(&mut grad[..]), weight: None, bias: None };
                LinearCrossEntropy::new(head.loss)
                    .budget(1 << 13)
                    .call(&head.input, &head.weight[from * hidden..to * hidden], &head.target, (tokens, hidden, here))
                    .class_weight(&head.of_classes[from..to])
                    .across(&vocab)
                    .forward_backward(Reduction::Mean, grads)
            })
        });
        come = results[0].1;
        if results[1].0.is_some() {
            assert!(results.iter().all(|(outcome, _)| matches!(outcome, Some(Ok(_)))));
            break;
        }
        for rank in [0, 2] {
            assert_eq!(results[rank].0, Some(Err(Error::RankLost { rank: 1 })), "after {after} collectives");
        }
    }
    // What is called, and the weights of the targets, and of some chunks the maxima, the sums and the gradient.
    assert!(come > 8, "{come}");
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
