//! A small language model: the next word of this crate's README from the two before it.
//!
//! ```text
//! cargo run --release --features head --example language_model             # prints the perplexity as it falls
//! cargo run --release --features head --example language_model -- --check  # fails unless it has learnt
//! ```
//!
//! Each word has a vector; the vectors of two words side by side are the input of the head, whose gradient they get back. The logits,
//! one for each word of the text and each word that there is, are never all there: the budget has room for some hundred rows.

use std::collections::HashMap;

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::{CrossEntropy, Reduction};

const TEXT: &str = include_str!("../README.md");
/// Numbers of a word's vector.
const WIDTH: usize = 32;
const EPOCHS: usize = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut known = HashMap::new();
    let words: Vec<i64> = (TEXT.split_whitespace())
        .map(|word| {
            let next = known.len() as i64;
            *known.entry(word).or_insert(next)
        })
        .collect();
    let (tokens, hidden, classes) = (words.len() - 2, 2 * WIDTH, known.len());
    println!("{tokens} words to guess, of {classes}: {} MiB of logits", (4 * tokens * classes) >> 20);

    let mut random = fastrand::Rng::with_seed(5);
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| 0.2 * (random.f32() - 0.5)).collect() };
    let (mut vectors, mut weight, mut bias) = (numbers(classes * WIDTH), numbers(classes * hidden), vec![0.0; classes]);
    let mut adam = [Adam::of(vectors.len()), Adam::of(weight.len()), Adam::of(bias.len())];
    let (mut grad_input, mut grad_vectors) = (vec![0.0; tokens * hidden], vec![0.0; vectors.len()]);
    let (mut grad_weight, mut grad_bias) = (vec![0.0; weight.len()], vec![0.0; classes]);

    let head = LinearCrossEntropy::new(CrossEntropy::new()).budget(2 << 20);
    let mut perplexities = Vec::new();
    for epoch in 0..EPOCHS {
        let vector = |word: i64| &vectors[word as usize * WIDTH..][..WIDTH];
        let input: Vec<f32> =
            words[..tokens + 1].windows(2).flat_map(|two| two.iter().copied().flat_map(vector).copied()).collect();
        let loss = head.call(&input, &weight, &words[2..], (tokens, hidden, classes)).bias(&bias).forward_backward(
            Reduction::Mean,
            LinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: Some(&mut grad_bias) },
        )?;
        grad_vectors.fill(0.0);
        for (two, grads) in words.windows(2).zip(grad_input.chunks_exact(hidden)) {
            for (&word, grad) in two.iter().zip(grads.chunks_exact(WIDTH)) {
                let sum = &mut grad_vectors[word as usize * WIDTH..][..WIDTH];
                sum.iter_mut().zip(grad).for_each(|(sum, g)| *sum += g);
            }
        }
        let steps = [(&mut vectors, &grad_vectors), (&mut weight, &grad_weight), (&mut bias, &grad_bias)];
        for (adam, (parameters, grads)) in adam.iter_mut().zip(steps) {
            adam.step(parameters, grads, epoch);
        }
        perplexities.push(loss.exp());
        if epoch % 10 == 9 {
            println!("epoch {:3}: perplexity {:8.2}", epoch + 1, loss.exp());
        }
    }
    if std::env::args().any(|a| a == "--check") {
        let (first, last) = (perplexities[0], perplexities[EPOCHS - 1]);
        // At first all words are as likely as one another.
        if !((first / classes as f32 - 1.0).abs() < 0.05 && last < 10.0) {
            return Err(format!("of {classes} words, perplexity {first} to begin with, then {last}").into());
        }
    }
    Ok(())
}

/// Kingma and Ba's Adam.
struct Adam {
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Adam {
    fn of(n: usize) -> Self {
        Adam { mean: vec![0.0; n], square: vec![0.0; n] }
    }

    fn step(&mut self, parameters: &mut [f32], grads: &[f32], steps_before: usize) {
        let (rate, a, b) = (0.02, 0.9f32, 0.999f32);
        let t = steps_before as i32 + 1;
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((p, g), (mean, square)) in parameters.iter_mut().zip(grads).zip(moments) {
            *mean = a * *mean + (1.0 - a) * g;
            *square = b * *square + (1.0 - b) * g * g;
            *p -= rate * (*mean / (1.0 - a.powi(t))) / ((*square / (1.0 - b.powi(t))).sqrt() + 1e-8);
        }
    }
}
