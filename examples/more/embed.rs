//! Embeddings: which images are near to each other? In noise their pixels hardly say.

use fastrand::Rng;
use fused_loss::{CosineEmbedding, Reduction, Result, TripletMargin};
use ndarray::{Array2, Axis};

use crate::data::{self, Set, Split};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

/// Numbers of an embedding.
const SIZE: usize = 32;
/// The standard deviation of the noise; the images themselves go from 0 to 1.
const NOISE: f32 = 0.4;
const BATCH: usize = 128;

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let digits = data::digits();
    Ok(vec![cosine_embedding(context, &digits)?, triplet_margin(context, &digits)?])
}

/// Pairs of images, and whether they show the same digit.
fn cosine_embedding(context: &Context, Split { train, test }: &Split<u8>) -> Result<Outcome> {
    let progress = Progress::start("cosine embedding");
    let mut rng = context.rng(51);
    let mut model = Mlp::new(&[64, 64, SIZE], &mut rng);
    let epochs = context.pick(30, 20);
    let trainer = Trainer { epochs, batch: BATCH, rate: 0.003, device: &context.device, progress: &progress };
    let loss = CosineEmbedding::new(0.2)?;
    let steps = 20;
    let mut curve = vec![0.0; epochs];
    for (epoch, mean) in curve.iter_mut().enumerate() {
        for _ in 0..steps {
            // Every other pair is of one digit.
            let draw = |i| {
                let first = rng.usize(..train.y.len());
                (first, partner(train, first, i % 2 == 0, &mut rng))
            };
            let (first, second): (Vec<_>, Vec<_>) = (0..BATCH).map(draw).unzip();
            let labels: Vec<f32> = (0..BATCH).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
            // One network embeds both sides, and gets the gradients of both.
            let images = noisy(&train.x.select(Axis(0), &[first, second].concat()), &mut rng);
            let embedded = model.forward(images.view());
            let (input, target) = embedded.split_at(BATCH * SIZE);
            let mut grad = vec![0.0; embedded.len()];
            let (on_input, on_target) = grad.split_at_mut(BATCH * SIZE);
            let shape = (BATCH, SIZE);
            let value = loss.forward_backward(input, target, &labels, shape, Reduction::Mean, on_input, on_target)?;
            *mean += value / steps as f32;
            model.backward(&grad);
            model.step(trainer.rate_in(epoch));
        }
        progress.update(epoch + 1, epochs, *mean);
    }
    let metrics = nearest(context, &mut model, [train, test], cosines);
    Ok(progress.finish("digits in noise", curve, metrics))
}

/// An image, another of the same digit, and one of another digit.
fn triplet_margin(context: &Context, Split { train, test }: &Split<u8>) -> Result<Outcome> {
    let progress = Progress::start("triplet margin");
    let mut rng = context.rng(52);
    let mut model = Mlp::new(&[64, 64, SIZE], &mut rng);
    let epochs = context.pick(30, 20);
    let trainer = Trainer { epochs, batch: BATCH, rate: 0.003, device: &context.device, progress: &progress };
    let loss = TripletMargin::new();
    let steps = 20;
    let mut curve = vec![0.0; epochs];
    for (epoch, mean) in curve.iter_mut().enumerate() {
        for _ in 0..steps {
            let anchor: Vec<_> = (0..BATCH).map(|_| rng.usize(..train.y.len())).collect();
            let positive: Vec<_> = anchor.iter().map(|&row| partner(train, row, true, &mut rng)).collect();
            let negative: Vec<_> = anchor.iter().map(|&row| partner(train, row, false, &mut rng)).collect();
            let images = noisy(&train.x.select(Axis(0), &[anchor, positive, negative].concat()), &mut rng);
            let embedded = model.forward(images.view());
            // Three parts of the embeddings, three of the gradient.
            let part = |i: usize| &embedded[i * BATCH * SIZE..][..BATCH * SIZE];
            let mut grad = vec![0.0; embedded.len()];
            let (on_anchor, rest) = grad.split_at_mut(BATCH * SIZE);
            let (on_positive, on_negative) = rest.split_at_mut(BATCH * SIZE);
            let value = loss.forward_backward(
                part(0),
                part(1),
                part(2),
                (BATCH, SIZE),
                Reduction::Mean,
                on_anchor,
                on_positive,
                on_negative,
            )?;
            *mean += value / steps as f32;
            model.backward(&grad);
            model.step(trainer.rate_in(epoch));
        }
        progress.update(epoch + 1, epochs, *mean);
    }
    let metrics = nearest(context, &mut model, [train, test], closeness);
    Ok(progress.finish("digits in noise", curve, metrics))
}

/// Another image of the same digit, or an image of another digit.
fn partner(set: &Set<u8>, row: usize, same: bool, rng: &mut Rng) -> usize {
    loop {
        let other = rng.usize(..set.y.len());
        if other != row && (set.y[other] == set.y[row]) == same {
            return other;
        }
    }
}

fn noisy(images: &Array2<f32>, rng: &mut Rng) -> Array2<f32> {
    images.mapv(|pixel| pixel + NOISE * normal(rng))
}

/// How many test images are most similar to a training image of the same digit, of which there are a fifth: by their
/// embeddings, and by their pixels.
fn nearest(
    context: &Context,
    model: &mut Mlp,
    [train, test]: [&Set<u8>; 2],
    similarity: fn(&Array2<f32>, &Array2<f32>) -> Array2<f32>,
) -> Vec<Metric> {
    let mut rng = context.rng(50);
    let known = train.rows(&(0..train.y.len()).step_by(5).collect::<Vec<_>>());
    let [known_x, test_x] = [&known, test].map(|set| noisy(&set.x, &mut rng));
    let share = |known_x: &Array2<f32>, test_x: &Array2<f32>| {
        let similarity = similarity(test_x, known_x);
        let right = similarity.rows().into_iter().zip(&test.y).filter(|(row, digit)| {
            (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).map(|nearest| known.y[nearest]) == Some(**digit)
        });
        Metric::new("right neighbours", right.count() as f32 / test.y.len() as f32)
    };
    let [known_e, test_e] = [&known_x, &test_x].map(|x| {
        Array2::from_shape_vec((x.nrows(), SIZE), model.forward(x.view())).expect("an embedding for each image")
    });
    vec![share(&known_e, &test_e).at_least(context.pick(0.59, 0.53)).versus("pixels", share(&known_x, &test_x))]
}

fn cosines(a: &Array2<f32>, b: &Array2<f32>) -> Array2<f32> {
    let unit = |x: &Array2<f32>| x / &x.map_axis(Axis(1), |row| row.dot(&row).sqrt()).insert_axis(Axis(1));
    unit(a).dot(&unit(b).t())
}

/// Less the larger the distance is; the squares of the rows of `a` would change no order.
fn closeness(a: &Array2<f32>, b: &Array2<f32>) -> Array2<f32> {
    2.0 * a.dot(&b.t()) - b.map_axis(Axis(1), |row| row.dot(&row))
}
