//! InfoNCE, as CLIP has it: which lower half belongs to which upper half of a digit?

use fused_loss::head::{InfoNce, InfoNceGrads};
use fused_loss::{Mse, Reduction, Result};
use ndarray::{Array2, Axis, s};

use crate::data;
use crate::nn::{Mlp, Trainer};
use crate::report::{Context, Metric, Outcome, Progress};

/// Pixels of half an image.
const HALF: usize = 32;
/// Numbers of an embedding.
const SIZE: usize = 32;

pub fn run(context: &Context) -> Result<Outcome> {
    let progress = Progress::start("InfoNCE");
    let digits = data::digits();
    let halves = |x: &Array2<f32>| [s![.., ..HALF], s![.., HALF..]].map(|half| x.slice(half).to_owned());
    let (train, test) = (halves(&digits.train.x), halves(&digits.test.x));
    let mut rng = context.rng(61);
    let mut towers = [Mlp::new(&[HALF, 128, SIZE], &mut rng), Mlp::new(&[HALF, 128, SIZE], &mut rng)];
    towers.iter_mut().for_each(|tower| tower.decay = 0.1);
    let mut log_scale = 10f32.ln();

    let epochs = context.pick(40, 15);
    let trainer = Trainer { epochs, batch: 128, rate: 0.003, device: &context.device, progress: &progress };
    let mut order: Vec<usize> = (0..digits.train.y.len()).collect();
    let mut curve = Vec::new();
    for epoch in 0..epochs {
        rng.shuffle(&mut order);
        let mut sum = 0.0;
        for rows in order.chunks(trainer.batch) {
            let outputs = [0, 1].map(|i| towers[i].forward(train[i].select(Axis(0), rows).view()));
            let units = outputs.each_ref().map(|output| normalise(output));
            let mut grads = [vec![0.0; rows.len() * SIZE], vec![0.0; rows.len() * SIZE]];
            let [of_upper, of_lower] = &mut grads;
            let (scale, mut of_scale) = (log_scale.exp(), 0.0);
            let to = InfoNceGrads { first: Some(of_upper), second: Some(of_lower), scale: Some(&mut of_scale) };
            let call = InfoNce::new().call(&units[0], &units[1], (rows.len(), SIZE)).scale(scale);
            sum += call.forward_backward(to)? * rows.len() as f32;
            for i in 0..2 {
                towers[i].backward(&through_normalise(&outputs[i], &units[i], &grads[i]));
                towers[i].step(trainer.rate_in(epoch));
            }
            // The scale is learnt too. It is an exponential, so that it stays above zero.
            log_scale -= 10.0 * trainer.rate_in(epoch) * of_scale * scale;
        }
        curve.push(sum / order.len() as f32);
        progress.update(epoch + 1, epochs, curve[epoch]);
    }
    let units = [0, 1].map(|i| normalise(&towers[i].forward(test[i].view())));
    // Only upper halves ask, of all test images: how unlikely is the lower half that is right?
    let one_way =
        InfoNce::one_way().call(&units[0], &units[1], (test[0].nrows(), SIZE)).scale(log_scale.exp()).forward()?;
    let embedded = units.map(matrix);
    let ranks = ranks(&embedded[0].dot(&embedded[1].t()));

    // The rival draws the lower half, and takes the one that is nearest to its drawing.
    let mut rng = context.rng(61);
    let mut rival = Mlp::new(&[HALF, 128, HALF], &mut rng);
    rival.decay = 0.1;
    let lower: Vec<f32> = train[1].iter().copied().collect();
    trainer.fit(&mut rival, (&train[0], &lower), &mut rng, |output, target, grad| {
        Mse::new().on(&context.device).forward_backward(output, target, Reduction::Mean, grad)
    })?;
    let drawn = Array2::from_shape_vec(test[0].dim(), rival.forward(test[0].view())).expect("halves");
    let squares = test[1].map_axis(Axis(1), |row| row.dot(&row));
    let by_drawing = self::ranks(&(2.0 * drawn.dot(&test[1].t()) - &squares));

    let within = |ranks: &[usize], name, k| {
        Metric::new(name, ranks.iter().filter(|&&rank| rank < k).count() as f32 / ranks.len() as f32)
    };
    let metrics = [("top 1", 1, context.pick(0.26, 0.16)), ("top 5", 5, context.pick(0.60, 0.50))]
        .map(|(name, k, least)| within(&ranks, name, k).at_least(least).versus("MSE", within(&by_drawing, name, k)));
    let log_loss = Metric::new("one way", one_way).at_most(context.pick(4.0, 4.5));
    Ok(progress.finish("halves of digits", curve, metrics.into_iter().chain([log_loss]).collect()))
}

fn matrix(rows: Vec<f32>) -> Array2<f32> {
    Array2::from_shape_vec((rows.len() / SIZE, SIZE), rows).expect("rows of one size")
}

/// Rows of length one.
fn normalise(rows: &[f32]) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    rows.chunks_exact(SIZE).flat_map(|row| row.iter().map(move |x| x / length(row))).collect()
}

/// The gradient for what has been normalised.
fn through_normalise(rows: &[f32], units: &[f32], grads: &[f32]) -> Vec<f32> {
    let rows = rows.chunks_exact(SIZE).zip(units.chunks_exact(SIZE)).zip(grads.chunks_exact(SIZE));
    rows.flat_map(|((row, unit), grad)| {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let along: f32 = unit.iter().zip(grad).map(|(u, g)| u * g).sum();
        unit.iter().zip(grad).map(move |(u, g)| (g - along * u) / length)
    })
    .collect()
}

/// How many are more similar than the one that belongs there, for each row.
fn ranks(similarity: &Array2<f32>) -> Vec<usize> {
    let rows = similarity.rows().into_iter().enumerate();
    rows.map(|(i, row)| row.iter().filter(|&&other| other > row[i]).count()).collect()
}
