//! Boxes: where in a noisy picture is the digit, and how large is it?

use fastrand::Rng;
use fused_loss::{BoxIou, Reduction, Result, SmoothL1};
use ndarray::Array2;

use crate::Loss;
use crate::data::{self, Set};
use crate::nn::{Mlp, Trainer, normal};
use crate::report::{Context, Metric, Outcome, Progress};

/// Pixels a side of a picture; a digit has 5 to 16.
const SIDE: usize = 20;
/// The standard deviation of the noise; the images themselves go from 0 to 1.
const NOISE: f32 = 0.2;

pub fn run(context: &Context) -> Result<Vec<Outcome>> {
    let device = &context.device;
    let digits = data::digits();
    let mut rng = context.rng(81);
    let (train, boxes) = pictures(&digits.train, context.pick(8, 6), &mut rng);
    let (test, truth) = pictures(&digits.test, 5, &mut rng);

    let fit = |progress: &Progress, loss: &Loss<f32>| {
        let mut rng = context.rng(82);
        let mut model = Mlp::new(&[SIDE * SIDE, 64, 4], &mut rng);
        let trainer = Trainer { epochs: context.pick(12, 8), batch: 64, rate: 0.003, device, progress };
        let curve = trainer.fit(&mut model, (&train, &boxes), &mut rng, |output, truth, grad| {
            let output = output.to_vec()?;
            let mut on_edges = device.zeros(output.len())?;
            let value = loss(&device.buffer(&placed(&output))?, truth, &mut on_edges)?;
            grad.write(&through_placed(&output, &on_edges.to_vec()?))?;
            Ok(value)
        })?;
        Ok((curve, placed(&model.forward(test.view()))))
    };
    let score = |boxes: &[f32]| {
        let iou = 1.0 - BoxIou::iou().forward(boxes, &truth, (truth.len() / 4, 4), Reduction::Mean)?;
        Ok(Metric::new("mean IoU", iou))
    };
    let (_, rival) = fit(&Progress::start("SmoothL1"), &|guess, truth, grad| {
        SmoothL1::new(0.05)?.on(device).forward_backward(guess, truth, Reduction::Mean, grad)
    })?;
    let mut outcomes = Vec::new();
    for (name, loss) in [("GIoU", BoxIou::giou()), ("DIoU", BoxIou::diou()), ("CIoU", BoxIou::ciou())] {
        let progress = Progress::start(name);
        let (curve, found) = fit(&progress, &|guess, truth, grad| {
            // Four numbers a box: left, top, right, bottom.
            loss.on(device).forward_backward(guess, truth, (truth.len() / 4, 4), Reduction::Mean, grad)
        })?;
        let metrics = vec![score(&found)?.at_least(context.pick(0.59, 0.57)).versus("SmoothL1", score(&rival)?)];
        outcomes.push(progress.finish("digits in pictures", curve, metrics));
    }
    Ok(outcomes)
}

/// Boxes from where their centres are and the logarithms of their sizes, so that no edge gets past the other.
fn placed(output: &[f32]) -> Vec<f32> {
    let place = |o: &[f32]| {
        let ([x, y], [w, h]) = ([0.5 + o[0], 0.5 + o[1]], half_sizes(o));
        [x - w, y - h, x + w, y + h]
    };
    output.chunks_exact(4).flat_map(place).collect()
}

fn half_sizes(o: &[f32]) -> [f32; 2] {
    [0.2 * o[2].exp(), 0.2 * o[3].exp()]
}

/// The gradient for what a network gives, from that for the edges.
fn through_placed(output: &[f32], on_edges: &[f32]) -> Vec<f32> {
    let through = |(o, g): (&[f32], &[f32])| {
        let [w, h] = half_sizes(o);
        [g[0] + g[2], g[1] + g[3], w * (g[2] - g[0]), h * (g[3] - g[1])]
    };
    output.chunks_exact(4).zip(on_edges.chunks_exact(4)).flat_map(through).collect()
}

/// Digits of any size anywhere in pictures, with noise, and the boxes around their ink, from 0 to 1.
fn pictures(digits: &Set<u8>, copies: usize, rng: &mut Rng) -> (Array2<f32>, Vec<f32>) {
    let rows = copies * digits.y.len();
    let mut pictures = Array2::from_shape_simple_fn((rows, SIDE * SIDE), || NOISE * normal(rng));
    let mut boxes = Vec::new();
    for (i, mut picture) in pictures.rows_mut().into_iter().enumerate() {
        let digit = digits.x.row(i % digits.y.len());
        let size = rng.usize(5..17);
        let [left, top] = [0, 1].map(|_| rng.usize(..=SIDE - size));
        let (mut low, mut high) = ([SIDE; 2], [0; 2]);
        for (x, y) in (0..size).flat_map(|y| (0..size).map(move |x| (x, y))) {
            let ink = digit[8 * (8 * y / size) + 8 * x / size];
            picture[(top + y) * SIDE + left + x] += ink;
            if ink > 0.5 {
                low = [low[0].min(left + x), low[1].min(top + y)];
                high = [high[0].max(left + x + 1), high[1].max(top + y + 1)];
            }
        }
        boxes.extend([low, high].concat().into_iter().map(|edge| edge as f32 / SIDE as f32));
    }
    (pictures, boxes)
}
