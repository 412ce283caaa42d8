//! Which pixels belong to the digit, in an image full of noise: Dice and cross-entropy in one pass, beside either alone.
//!
//! ```text
//! cargo run --release --example combine             # prints both terms as they fall
//! cargo run --release --example combine -- --check  # fails unless it has learnt
//! ```
//!
//! Dice looks at the overlap and knows no pixel; cross-entropy looks at each pixel and knows no digit. Their sum is the usual loss
//! of segmentation, and here it is one call, which gives the values of its terms too. What is judged in the end is the overlap of each image;
//! Lovász-Softmax follows that by itself, once the pixels have been learnt.

use fused_loss::{CrossEntropy, Device, DiceLoss, LovaszSoftmax, Reduction};
use ndarray::{Array2, ArrayView2, Axis, Zip};

const PIXELS: usize = 64;
const HIDDEN: usize = 128;
const BATCH: usize = 64;
const EPOCHS: usize = 8;
const RATE: f32 = 0.003;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let device = Device::auto();
    let mut rng = fastrand::Rng::with_seed(3);
    // Every fifth image is for the test.
    let digits: Vec<Vec<f32>> = include_str!("data/digits.csv").lines().map(numbers).collect();
    let part = |test: bool| (0..digits.len()).filter(move |i| (i % 5 == 0) == test).map(|i| &digits[i][..PIXELS]);
    let (train, test) = (Images::noisy(part(false), &mut rng), Images::noisy(part(true), &mut rng));
    println!("{} noisy images to learn from, {} to be judged by, on {device}", train.count(), test.count());

    // The sum is a loss like any other; two weights make one of its terms small.
    let (dice, cross_entropy) = (DiceLoss::new().softmax(), CrossEntropy::new());
    let (mut scores, mut refined) = (Vec::new(), [0.0; 2]);
    for (name, weights) in [("cross-entropy", [0.0, 1.0]), ("Dice", [1.0, 0.0]), ("both", [0.5, 0.5])] {
        let loss = weights[0] * dice + weights[1] * cross_entropy;
        let mut net = Net::new(&mut rng);
        let mut last = [0.0; 2];
        for epoch in 0..EPOCHS {
            let mut sums = [0.0; 2];
            train.epoch(&mut net, &mut rng, |logits, masks, images| {
                let (logits, mut grad) = (device.buffer(logits)?, device.zeros(logits.len())?);
                let mut terms = device.zeros(2)?;
                // Channels are background and digit: [images, 2, 8, 8].
                loss.on(&device).forward_backward_terms(
                    &logits,
                    &device.buffer(masks)?,
                    [images, 2, 8, 8],
                    Reduction::Mean,
                    &mut grad,
                    &mut terms,
                )?;
                let terms = terms.to_vec()?;
                (0..2).for_each(|j| sums[j] += terms[j] * images as f32);
                grad.to_vec()
            })?;
            last = sums.map(|sum| sum / train.count() as f32);
            if epoch % 2 == 1 {
                println!("{name:13} epoch {:2}: Dice {:.4}, cross-entropy {:.4}", epoch + 1, last[0], last[1]);
            }
        }
        let score = test.score(&net.forward(test.pixels.view()));
        scores.push((name, score, last));
        if name == "cross-entropy" {
            // What the pixels have taught is now judged by its Jaccard index, image by image.
            let lovasz = LovaszSoftmax::new().batch(false);
            for _ in 0..EPOCHS / 2 {
                train.epoch(&mut net, &mut rng, |logits, masks, images| {
                    let (logits, mut grad) = (device.buffer(logits)?, device.zeros(logits.len())?);
                    let (masks, shape) = (device.buffer(masks)?, [images, 2, 8, 8]);
                    lovasz.on(&device).forward_backward(&logits, &masks, shape, Reduction::Mean, &mut grad)?;
                    grad.to_vec()
                })?;
            }
            let after = test.score(&net.forward(test.pixels.view()));
            println!("cross-entropy, then Lovasz-Softmax: overlap on test images {score:.3}, then {after:.3}");
            refined = [score, after];
        }
    }
    println!("\n{:13}  Dice loss  cross-entropy  overlap on test images", "trained by");
    for (name, score, last) in &scores {
        println!("{name:13}  {:9.4}  {:13.4}  {score:.3}", last[0], last[1]);
    }
    if std::env::args().any(|arg| arg == "--check") {
        let [(_, _, by_pixels), (_, _, by_overlap), (_, score, both)] = scores[..] else {
            unreachable!("three losses")
        };
        // Each alone neglects what the other asks for; the sum neglects neither. And the index can be learnt by itself.
        let learnt = score > 0.79 && both[0] < by_pixels[0] && both[1] < 0.5 * by_overlap[1];
        if !(learnt && refined[1] > refined[0]) {
            return Err(format!("{scores:?} {refined:?}").into());
        }
    }
    Ok(())
}

fn numbers(line: &str) -> Vec<f32> {
    line.split(',').map(|number| number.parse().expect("a number")).collect()
}

/// Noisy images, and which of their pixels are the digit's.
struct Images {
    pixels: Array2<f32>,
    masks: Vec<u8>,
}

impl Images {
    /// Pixels from 0 to 16 become numbers from 0 to 1, with noise of half of that. Above 7 a pixel is the digit's.
    fn noisy<'a>(images: impl Iterator<Item = &'a [f32]>, rng: &mut fastrand::Rng) -> Self {
        let clean: Vec<f32> = images.flatten().copied().collect();
        // The sum of twelve uniform numbers is nearly normal.
        let mut noise = || (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0;
        let noisy = clean.iter().map(|pixel| pixel / 16.0 + 0.5 * noise()).collect();
        let pixels = Array2::from_shape_vec((clean.len() / PIXELS, PIXELS), noisy).expect("whole images");
        Images { pixels, masks: clean.iter().map(|&pixel| u8::from(pixel > 7.0)).collect() }
    }

    fn count(&self) -> usize {
        self.masks.len() / PIXELS
    }

    /// A step of the net for each batch, against the gradient that a loss has for its logits and masks, of so many images.
    fn epoch(
        &self,
        net: &mut Net,
        rng: &mut fastrand::Rng,
        mut loss: impl FnMut(&[f32], &[u8], usize) -> fused_loss::Result<Vec<f32>>,
    ) -> fused_loss::Result<()> {
        let mut order: Vec<usize> = (0..self.count()).collect();
        rng.shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let (pixels, masks) = self.pick(batch);
            let grad = loss(&net.forward(pixels.view()), &masks, batch.len())?;
            net.learn(&grad);
        }
        Ok(())
    }

    fn pick(&self, images: &[usize]) -> (Array2<f32>, Vec<u8>) {
        let masks = images.iter().flat_map(|&i| &self.masks[i * PIXELS..][..PIXELS]).copied().collect();
        (self.pixels.select(Axis(0), images), masks)
    }

    /// The mean over the images of twice the overlap by the sum of both sizes.
    fn score(&self, logits: &[f32]) -> f32 {
        let images = logits.chunks_exact(2 * PIXELS).zip(self.masks.chunks_exact(PIXELS));
        let count = images.len();
        let scores = images.map(|(logits, mask)| {
            let found: Vec<bool> = (0..PIXELS).map(|i| logits[PIXELS + i] > logits[i]).collect();
            let overlap = found.iter().zip(mask).filter(|(found, mask)| **found && **mask == 1).count();
            let sizes = found.iter().filter(|&&found| found).count() + mask.iter().filter(|&&mask| mask == 1).count();
            2.0 * overlap as f32 / sizes as f32
        });
        scores.sum::<f32>() / count as f32
    }
}

/// Two layers with a leaky ReLU between them, trained by Adam.
struct Net {
    layers: [Layer; 2],
    steps: i32,
}

struct Layer {
    /// The last row is the bias.
    weight: Array2<f32>,
    mean: Array2<f32>,
    square: Array2<f32>,
    /// What came in last, with a 1 behind it.
    input: Array2<f32>,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, rng: &mut fastrand::Rng) -> Self {
        let scale = (6.0 / inputs as f32).sqrt();
        let weight = Array2::from_shape_simple_fn((inputs + 1, outputs), || scale * (2.0 * rng.f32() - 1.0));
        let zeros = Array2::zeros(weight.dim());
        Layer { weight, mean: zeros.clone(), square: zeros, input: Array2::default((0, 0)) }
    }

    fn forward(&mut self, x: ArrayView2<f32>) -> Array2<f32> {
        self.input = ndarray::concatenate![Axis(1), x, Array2::ones((x.nrows(), 1))];
        self.input.dot(&self.weight)
    }

    /// Takes a step, and returns the gradient for the input.
    fn learn(&mut self, grad: &Array2<f32>, steps: i32) -> Array2<f32> {
        let of_input = grad.dot(&self.weight.slice(ndarray::s![..-1, ..]).t());
        let of_weight = self.input.t().dot(grad);
        let (full1, full2) = (1.0 - 0.9f32.powi(steps), 1.0 - 0.999f32.powi(steps));
        Zip::from(&mut self.weight).and(&of_weight).and(&mut self.mean).and(&mut self.square).for_each(
            |weight, g, mean, square| {
                *mean += 0.1 * (g - *mean);
                *square += 0.001 * (g * g - *square);
                *weight -= RATE * (*mean / full1) / ((*square / full2).sqrt() + 1e-8);
            },
        );
        of_input
    }
}

impl Net {
    fn new(rng: &mut fastrand::Rng) -> Self {
        Net { layers: [Layer::new(PIXELS, HIDDEN, rng), Layer::new(HIDDEN, 2 * PIXELS, rng)], steps: 0 }
    }

    /// The logits of both channels of every pixel, image after image.
    fn forward(&mut self, x: ArrayView2<f32>) -> Vec<f32> {
        let hidden = self.layers[0].forward(x).mapv(|x| if x > 0.0 { x } else { 0.1 * x });
        self.layers[1].forward(hidden.view()).into_iter().collect()
    }

    /// A step against this gradient of the logits.
    fn learn(&mut self, grad: &[f32]) {
        self.steps += 1;
        let grad =
            Array2::from_shape_vec((grad.len() / (2 * PIXELS), 2 * PIXELS), grad.to_vec()).expect("two channels");
        let mut of_hidden = self.layers[1].learn(&grad, self.steps);
        let hidden = self.layers[1].input.slice(ndarray::s![.., ..-1]);
        Zip::from(&mut of_hidden).and(hidden).for_each(|g, &x| *g *= if x > 0.0 { 1.0 } else { 0.1 });
        self.layers[0].learn(&of_hidden, self.steps);
    }
}
