//! Values and gradients of PyTorch, Keras, MONAI, torchvision and segmentation_models_pytorch; `tests/golden/generate.py` made them.

use fused_loss::*;
use serde_json::Value;

/// One recorded case.
struct Case(Value);

impl Case {
    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_else(|| panic!("{}: no {key}", self.0["name"]))
    }

    fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        let list = self.0.get(key)?;
        Some(match list.as_array() {
            Some(list) => list.iter().map(number).collect(),
            None => vec![number(list)],
        })
    }

    fn floats(&self, key: &str) -> Option<Vec<f32>> {
        Some(self.numbers(key)?.into_iter().map(|x| x as f32).collect())
    }

    fn option(&self, key: &str) -> Option<f32> {
        self.0["options"].get(key).map(|x| number(x) as f32)
    }

    fn flag(&self, key: &str) -> bool {
        self.0["options"].get(key).is_some_and(|x| x.as_bool().unwrap())
    }

    fn word(&self, key: &str) -> &str {
        self.0["options"].get(key).map_or("", |x| x.as_str().unwrap())
    }

    /// Of the two losses of a sum.
    fn weights(&self) -> [f32; 2] {
        [0, 1].map(|i| number(&self.0["options"]["weights"][i]) as f32)
    }

    fn ignore_index(&self) -> Option<i64> {
        Some(self.option("ignore_index").map_or(-100, |x| x as i64))
    }

    fn dims(&self) -> Vec<usize> {
        self.0["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
    }

    fn shape(&self) -> Shape {
        let axis = self.0["options"].get("class_axis").map_or(1, |x| x.as_i64().unwrap());
        if axis == -1 { Shape::last_axis(&self.dims()).unwrap() } else { Shape::channels_first(&self.dims()).unwrap() }
    }

    fn reduction(&self) -> Option<Reduction> {
        match self.text("reduction") {
            "mean" => Some(Reduction::Mean),
            "sum" => Some(Reduction::Sum),
            "batchmean" => Some(Reduction::BatchMean(self.dims()[0])),
            "none" => None,
            other => panic!("reduction {other}"),
        }
    }

    /// Largest error, as a share of the largest wanted number, that f32 arithmetic may make.
    fn check(&self, what: &str, want: &[f64], got: &[f32]) {
        assert_eq!(want.len(), got.len(), "{}: length of {what}", self.0["name"]);
        let largest = want.iter().filter(|x| x.is_finite()).fold(0f64, |a, x| a.max(x.abs()));
        for (i, (&want, &got)) in want.iter().zip(got).enumerate() {
            let got = f64::from(got);
            let same = want == got || want.is_nan() && got.is_nan();
            // A sum of probabilities times gaps between logarithms, which is smaller than its terms.
            let terms = if self.0["name"].as_str().is_some_and(|name| name.starts_with("jsd")) { 2.0 } else { 1.0 };
            let close = approx::abs_diff_eq!(want, got, epsilon = terms * 1e-6 * largest + 1e-37);
            assert!(same || close, "{}: {what}[{i}]: expected {want}, got {got}", self.0["name"]);
        }
    }

    /// Runs a call, reduced or not, and checks all that the case records.
    fn run<L: Loss>(&self, call: Call<'_, L, f32>) {
        let n = self.numbers("input").unwrap().len();
        let (mut grad, mut grad_target) = (vec![0.0; n], vec![0.0; n]);
        let (weight, class_weight) = (self.floats("weight"), self.class_weight());
        let upstream = self.floats("grad_output").unwrap();
        let want = self.numbers("value").unwrap();
        let want_target = self.numbers("grad_target");
        let (third, mut grad_third) = (self.floats("third"), vec![0.0; n]);
        let want_third = self.numbers("grad_third");

        let mut call = call;
        if let Some(w) = &weight {
            call = call.weight(w);
        }
        if let Some(w) = &class_weight {
            call = call.class_weight(w);
        }
        if want_target.is_some() {
            call = call.grad_target(&mut grad_target);
        }
        if let Some(third) = &third {
            call = call.third(third);
        }
        if want_third.is_some() {
            call = call.grad_third(&mut grad_third);
        }
        let got = match self.reduction() {
            Some(reduction) => vec![call.grad_output(upstream[0]).forward_backward(reduction, &mut grad).unwrap()],
            None => {
                // Keras sums the classes of its divergence; here each element has a value.
                let each = if self.text("loss") == "kl_div_probs" { n / want.len() } else { 1 };
                let upstream: Vec<f32> = upstream.iter().flat_map(|&g| std::iter::repeat_n(g, each)).collect();
                let mut losses = vec![0.0; want.len() * each];
                call.forward_backward_unreduced(&upstream, &mut losses, &mut grad).unwrap();
                losses.chunks(each).map(|row| row.iter().sum()).collect()
            }
        };
        self.check("value", &want, &got);
        self.check("grad_input", &self.numbers("grad_input").unwrap(), &grad);
        if let Some(want) = want_target {
            self.check("grad_target", &want, &grad_target);
        }
        if let Some(want) = want_third {
            self.check("grad_third", &want, &grad_third);
        }
    }

    /// What a sum says of its terms, and with its value.
    fn terms(&self, run: impl Fn(&mut [f32], Reduction) -> Result<f32>) {
        let Some(want) = self.numbers("terms") else { return };
        let mut terms = vec![f32::NAN; want.len()];
        let value = run(&mut terms, self.reduction().expect("terms are of reduced sums")).unwrap();
        self.check("value", &self.numbers("value").unwrap(), &[value]);
        // By itself: one may be small beside the others.
        for (k, (want, got)) in want.iter().zip(terms).enumerate() {
            self.check(&format!("term {k}"), &[*want], &[got]);
        }
    }

    /// What cross-entropy reports of each row, while it does the rest and alone.
    fn report(&self, loss: CrossEntropy) {
        let Some(entropy) = self.numbers("entropy") else { return };
        let (input, target, rows) = (self.floats("input").unwrap(), self.numbers("target").unwrap(), entropy.len());
        let (dense, index): (Vec<f32>, Vec<i64>) = target.into_iter().map(|t| (t as f32, t as i64)).unzip();
        let indexed = self.text("target_kind") == "index";
        let target: Target<f32> = if indexed { (&index).into() } else { (&dense).into() };
        let [mut log_prob, mut hit, mut of_entropy, mut lse] = [(); 4].map(|()| vec![f32::NAN; rows]);
        let (mut argmax, mut grad, class_weight) = (vec![77; rows], vec![f32::NAN; input.len()], self.class_weight());
        let upstream = self.floats("grad_output").unwrap();

        let mut call = loss.call(&input, target, self.shape());
        if let Some(w) = &class_weight {
            call = call.class_weight(w);
        }
        call = call.entropy(&mut of_entropy).lse(&mut lse).argmax(&mut argmax);
        if indexed {
            call = call.log_prob(&mut log_prob).hit(&mut hit);
        }
        let value = match self.reduction() {
            Some(reduction) => {
                let value = call.grad_output(upstream[0]).forward_backward(reduction, &mut grad);
                vec![value.unwrap()]
            }
            None => {
                let mut losses = vec![f32::NAN; rows];
                call.forward_backward_unreduced(&upstream, &mut losses, &mut grad).unwrap();
                losses
            }
        };
        self.check("value", &self.numbers("value").unwrap(), &value);
        self.check("grad_input", &self.numbers("grad_input").unwrap(), &grad);
        // Each number against its own, for a row may be sure and the next not.
        let each = |what: &str, want: &[f64], got: &[f32]| {
            assert_eq!(want.len(), got.len(), "{}: length of {what}", self.0["name"]);
            want.iter().zip(got).for_each(|(want, got)| self.check(what, &[*want], &[*got]));
        };
        each("entropy", &entropy, &of_entropy);
        // But for what is left of a maximum and a logarithm, which may be almost zero.
        self.check("lse", &self.numbers("lse").unwrap(), &lse);
        let classes: Vec<f64> = argmax.iter().map(|&k| k as f64).collect();
        assert_eq!(self.numbers("argmax").unwrap(), classes, "{}: argmax", self.0["name"]);
        if indexed {
            each("log_prob", &self.numbers("log_prob").unwrap(), &log_prob);
            assert_eq!(self.floats("hit").unwrap(), hit, "{}: hit", self.0["name"]);
            let mut alone = vec![f32::NAN; rows];
            loss.log_probs(&input, target, self.shape(), &mut alone).unwrap();
            each("log_prob alone", &self.numbers("log_prob").unwrap(), &alone);
        }
    }

    fn class_weight(&self) -> Option<Vec<f32>> {
        let per_class = self.0["options"].get("pos_weight_per_class");
        let per_class = per_class.map(|w| w.as_array().unwrap().iter().map(|x| number(x) as f32).collect());
        per_class.or_else(|| self.floats("class_weight"))
    }

    /// An element-wise case.
    fn elementwise<L: Loss>(&self, call: impl for<'a> Fn(&'a [f32], &'a [f32]) -> Call<'a, L, f32>) {
        self.run(call(&self.floats("input").unwrap(), &self.floats("target").unwrap()));
    }

    /// A case of rows with dense targets.
    fn dense<L: Loss>(&self, call: impl for<'a> Fn(&'a [f32], &'a [f32], Shape) -> Call<'a, L, f32>) {
        self.run(call(&self.floats("input").unwrap(), &self.floats("target").unwrap(), self.shape()));
    }

    /// A case with classes, and if the targets are indices, of every type that holds them.
    fn classes<L: Loss>(&self, call: impl for<'a> Fn(&'a [f32], Target<'a, f32>, Shape) -> Call<'a, L, f32>) {
        let (input, target) = (self.floats("input").unwrap(), self.numbers("target").unwrap());
        if self.text("target_kind") == "dense" {
            let target: Vec<f32> = target.into_iter().map(|t| t as f32).collect();
            return self.run(call(&input, (&target).into(), self.shape()));
        }
        let i64s: Vec<i64> = target.iter().map(|&t| t as i64).collect();
        self.run(call(&input, (&i64s).into(), self.shape()));
        let i32s: Vec<i32> = target.iter().map(|&t| t as i32).collect();
        self.run(call(&input, (&i32s).into(), self.shape()));
        if i64s.iter().all(|t| (0..256).contains(t)) {
            let u32s: Vec<u32> = target.iter().map(|&t| t as u32).collect();
            self.run(call(&input, (&u32s).into(), self.shape()));
            let u8s: Vec<u8> = target.iter().map(|&t| t as u8).collect();
            self.run(call(&input, (&u8s).into(), self.shape()));
        }
    }

    fn labels(&self) -> HingeLabels {
        match self.word("labels") {
            "signed" | "" => HingeLabels::Signed,
            "zero_one" => HingeLabels::ZeroOne,
            "auto" => HingeLabels::Keras,
            other => panic!("labels {other}"),
        }
    }

    /// Dice and Tversky have the same options under the same names.
    fn dice(&self) -> DiceLoss {
        let smooth = |key| self.option(key).unwrap();
        let dice = DiceLoss::new().squared_pred(self.flag("squared_pred")).jaccard(self.flag("jaccard"));
        let dice = dice.batch(self.flag("batch")).include_background(self.background());
        let dice = dice.smooth_nr(smooth("smooth_nr")).unwrap().smooth_dr(smooth("smooth_dr")).unwrap();
        match self.word("activation") {
            "sigmoid" => dice.sigmoid(),
            "softmax" => dice.softmax(),
            _ => dice,
        }
    }

    fn tversky(&self) -> TverskyLoss {
        let option = |key| self.option(key).unwrap();
        let tversky = TverskyLoss::new(option("alpha"), option("beta")).unwrap();
        let tversky = tversky.focal(self.option("gamma").unwrap_or(1.0)).unwrap();
        let tversky = tversky.batch(self.flag("batch")).include_background(self.background());
        let tversky = tversky.smooth_nr(option("smooth_nr")).unwrap().smooth_dr(option("smooth_dr")).unwrap();
        match self.word("activation") {
            "sigmoid" => tversky.sigmoid(),
            "softmax" => tversky.softmax(),
            _ => tversky,
        }
    }

    fn generalised_dice(&self) -> GeneralizedDiceLoss {
        let smooth = |key| self.option(key).unwrap();
        let dice = GeneralizedDiceLoss::new().batch(self.flag("batch")).include_background(self.background());
        let dice = dice.smooth_nr(smooth("smooth_nr")).unwrap().smooth_dr(smooth("smooth_dr")).unwrap();
        match self.word("activation") {
            "sigmoid" => dice.sigmoid(),
            "softmax" => dice.softmax(),
            _ => dice,
        }
    }

    fn background(&self) -> bool {
        self.0["options"].get("include_background").is_none_or(|x| x.as_bool().unwrap())
    }

    fn task_uncertainty(&self) {
        let [input, log_variance, upstream] = ["input", "third", "grad_output"].map(|key| self.floats(key).unwrap());
        let mut grad = vec![0.0; input.len()];
        let (task, loss) = if self.word("kind") == "classification" {
            let task = TaskUncertainty::classification(log_variance[0]).unwrap();
            let target: Vec<i64> = self.numbers("target").unwrap().into_iter().map(|t| t as i64).collect();
            let call = CrossEntropy::new().call(&input, &target, self.shape());
            let call = call.grad_output(upstream[0] * task.weight());
            (task, call.forward_backward(Reduction::Mean, &mut grad).unwrap())
        } else {
            let task = TaskUncertainty::regression(log_variance[0]).unwrap();
            let target = self.floats("target").unwrap();
            let call = Mse::new().call(&input, &target).grad_output(upstream[0] * task.weight());
            (task, call.forward_backward(Reduction::Mean, &mut grad).unwrap())
        };
        self.check("value", &self.numbers("value").unwrap(), &[task.value(loss)]);
        self.check("grad_input", &self.numbers("grad_input").unwrap(), &grad);
        self.check("grad_third", &self.numbers("grad_third").unwrap(), &[upstream[0] * task.grad(loss)]);
    }

    fn gan(&self) {
        let (real, fake) = (self.floats("real").unwrap(), self.floats("fake").unwrap());
        let (mut grad_real, mut grad_fake) = (vec![0.0; real.len()], vec![0.0; fake.len()]);
        let upstream = self.floats("grad_output").unwrap()[0];
        let mode = match self.word("mode") {
            "non_saturating" => GanMode::NonSaturating,
            "minimax" => GanMode::Minimax,
            "least_squares" => GanMode::LeastSquares,
            "wasserstein" => GanMode::Wasserstein,
            "hinge" => GanMode::Hinge,
            _ => GanMode::Probabilities,
        };
        let discriminator = self.word("part") == "discriminator";
        let value = match self.word("mode") {
            "relativistic_average" => {
                let loss = RelativisticAverage::new().grad_output(upstream);
                if discriminator {
                    loss.discriminator(&real, &fake, &mut grad_real, &mut grad_fake)
                } else {
                    loss.generator(&real, &fake, &mut grad_real, &mut grad_fake)
                }
            }
            "relativistic_pairing" if discriminator => {
                let call = RelativisticPair.call(&fake, &real).grad_target(&mut grad_real).grad_output(upstream);
                call.forward_backward(Reduction::Mean, &mut grad_fake)
            }
            "relativistic_pairing" => {
                let call = RelativisticPair.call(&real, &fake).grad_target(&mut grad_fake).grad_output(upstream);
                call.forward_backward(Reduction::Mean, &mut grad_real)
            }
            _ => {
                let mut gan = GanLoss::new(mode).grad_output(upstream);
                if let Some(label) = self.option("real_label") {
                    gan = gan.real_label(label).unwrap();
                }
                if discriminator {
                    gan.discriminator(&real, &fake, Reduction::Mean, &mut grad_real, &mut grad_fake)
                } else {
                    gan.generator(&fake, Reduction::Mean, &mut grad_fake)
                }
            }
        };
        self.check("value", &self.numbers("value").unwrap(), &[value.unwrap()]);
        self.check("grad_fake", &self.numbers("grad_fake").unwrap(), &grad_fake);
        if let Some(want) = self.numbers("grad_real") {
            self.check("grad_real", &want, &grad_real);
        }
    }
}

/// A JSON number, or the string that stands for one that JSON has not.
fn number(x: &Value) -> f64 {
    x.as_f64().unwrap_or_else(|| x.as_str().unwrap().parse().unwrap())
}

#[test]
fn every_loss_agrees_with_the_framework_that_defines_it() {
    let file: Value = serde_json::from_str(include_str!("golden/golden.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    for case in cases {
        // Keras in f64; in f32, where 1 - 1e-7 is 0.99999988, its answer is 15.9424, and so is ours.
        if case["name"] == "bce_keras_clipped_high" {
            continue;
        }
        let case = Case(case.clone());
        let c = &case;
        let or = |key: &str, default: f32| c.option(key).unwrap_or(default);
        match c.text("loss") {
            "mse" => c.elementwise(|x, t| if c.flag("half") { Mse::half() } else { Mse::new() }.call(x, t)),
            "mae" => c.elementwise(|x, t| Mae.call(x, t)),
            "huber" => c.elementwise(|x, t| Huber::new(or("delta", 1.0)).unwrap().call(x, t)),
            "smooth_l1" => c.elementwise(|x, t| SmoothL1::new(or("beta", 1.0)).unwrap().call(x, t)),
            "bce" => c.elementwise(|x, t| Bce::new().epsilon(or("epsilon", 0.0)).unwrap().call(x, t)),
            "bce_with_logits" => {
                let loss = BceWithLogits::new().pos_weight(or("pos_weight", 1.0)).unwrap();
                c.elementwise(|x, t| loss.label_smoothing(or("label_smoothing", 0.0)).unwrap().call(x, t));
            }
            "hinge" => c.elementwise(|x, t| Hinge::new().labels(c.labels()).call(x, t)),
            "squared_hinge" => c.elementwise(|x, t| SquaredHinge::new().labels(c.labels()).call(x, t)),
            "kl_div" => c.elementwise(|x, t| KlDiv::new().log_target(c.flag("log_target")).call(x, t)),
            "kl_div_probs" => c.elementwise(|x, t| KlDivProbs::new().epsilon(or("epsilon", 1e-7)).unwrap().call(x, t)),
            "sigmoid_focal" => {
                let alpha = c.option("alpha").filter(|&a| a >= 0.0);
                let loss = SigmoidFocal::new().alpha(alpha).unwrap().gamma(or("gamma", 2.0)).unwrap();
                c.elementwise(|x, t| loss.call(x, t));
            }
            "cross_entropy" => {
                let loss = CrossEntropy::new().label_smoothing(or("label_smoothing", 0.0)).unwrap();
                let loss = loss.z_loss(or("z_loss", 0.0)).unwrap().softcap(c.option("softcap")).unwrap();
                let loss = loss.ignore_index(c.ignore_index());
                c.classes(|x, t, shape| loss.call(x, t, shape));
                c.report(loss);
            }
            "cross_entropy_probs" => {
                let loss = CrossEntropyProbs::new().label_smoothing(or("label_smoothing", 0.0)).unwrap();
                c.classes(|x, t, shape| loss.ignore_index(c.ignore_index()).call(x, t, shape));
            }
            "nll" => c.classes(|x, t, shape| Nll::new().ignore_index(c.ignore_index()).call(x, t, shape)),
            "softmax_focal" => {
                let loss = SoftmaxFocal::new().gamma(or("gamma", 2.0)).unwrap();
                c.classes(|x, t, shape| loss.ignore_index(c.ignore_index()).call(x, t, shape));
            }
            "categorical_hinge" => c.classes(|x, t, shape| CategoricalHinge.call(x, t, shape)),
            "multi_margin" => {
                let loss = MultiMargin::new().p(or("p", 1.0) as u32).unwrap().margin(or("margin", 1.0)).unwrap();
                c.classes(|x, t, shape| loss.call(x, t, shape));
            }
            "distillation" => {
                let by_t2 = c.0["options"].get("scale_by_t2").is_none_or(|x| x.as_bool().unwrap());
                let loss = Distillation::new().temperature(or("temperature", 1.0)).unwrap().scale_by_t2(by_t2);
                c.classes(|x, t, shape| loss.call(x, t, shape));
            }
            "dice" => c.classes(|x, t, shape| c.dice().call(x, t, shape)),
            "generalised_dice" => {
                let weight = match c.word("w_type") {
                    "simple" => DiceWeight::Simple,
                    "uniform" => DiceWeight::Uniform,
                    _ => DiceWeight::Square,
                };
                c.classes(|x, t, shape| c.generalised_dice().weight(weight).call(x, t, shape));
            }
            "tversky" => c.classes(|x, t, shape| c.tversky().call(x, t, shape)),
            "lovasz_hinge" => {
                c.classes(|x, t, shape| LovaszHinge::new().batch(c.flag("batch")).call(x, t, shape));
            }
            "lovasz_softmax" => {
                let loss = LovaszSoftmax::new().batch(c.flag("batch")).all_classes(c.flag("all_classes"));
                let loss = loss.ignore_index(c.option("ignore_index").map(|x| x as i64));
                c.classes(|x, t, shape| loss.call(x, t, shape));
            }
            "combined_regions" => {
                let [region, other] = c.weights();
                let cross_entropy = CrossEntropy::new().label_smoothing(or("label_smoothing", 0.0)).unwrap();
                let loss = match (c.word("region"), c.word("beside")) {
                    ("dice", "cross_entropy") => region * c.dice() + other * cross_entropy,
                    ("dice", "bce_with_logits") => region * c.dice() + other * BceWithLogits::new(),
                    ("dice", "sigmoid_focal") => {
                        let focal = SigmoidFocal::new().alpha(c.option("alpha")).unwrap();
                        region * c.dice() + other * focal.gamma(or("gamma", 2.0)).unwrap()
                    }
                    ("dice", "softmax_focal") => {
                        region * c.dice() + other * SoftmaxFocal::new().gamma(or("gamma", 2.0)).unwrap()
                    }
                    ("tversky", "cross_entropy") => region * c.tversky() + other * cross_entropy,
                    ("tversky", "sigmoid_focal") => {
                        let focal = SigmoidFocal::new().alpha(c.option("focal_alpha")).unwrap();
                        region * c.tversky() + other * focal.gamma(or("focal_gamma", 2.0)).unwrap()
                    }
                    ("tversky", "softmax_focal") => {
                        region * c.tversky() + other * SoftmaxFocal::new().gamma(or("focal_gamma", 2.0)).unwrap()
                    }
                    sum => panic!("no such sum: {sum:?}"),
                };
                c.classes(|x, t, shape| loss.call(x, t, shape));
                let (x, w, t) = (c.floats("input").unwrap(), c.class_weight(), c.numbers("target").unwrap());
                let (dense, index): (Vec<f32>, Vec<i64>) = t.into_iter().map(|t| (t as f32, t as i64)).unzip();
                c.terms(|terms, reduction| {
                    let target: Target<f32> =
                        if c.text("target_kind") == "index" { (&index).into() } else { (&dense).into() };
                    let call = loss.call(&x, target, c.shape()).terms(terms);
                    if let Some(w) = &w { call.class_weight(w) } else { call }.forward(reduction)
                });
            }
            "combined" => {
                let [first, second] = c.weights();
                let terms = [0, 1].map(|i| c.0["options"]["terms"][i].as_str().unwrap());
                let sum = match terms {
                    ["mse", "mae"] => first * Mse::new() + second * Mae,
                    ["huber", "smooth_l1"] => {
                        let huber = Huber::new(or("delta", 1.0)).unwrap();
                        first * huber + second * SmoothL1::new(or("beta", 1.0)).unwrap()
                    }
                    ["hinge", "squared_hinge"] => {
                        first * Hinge::new().labels(c.labels()) + second * SquaredHinge::new().labels(c.labels())
                    }
                    ["bce_with_logits", "sigmoid_focal"] => {
                        let focal = SigmoidFocal::new().alpha(c.option("alpha")).unwrap();
                        let bce = BceWithLogits::new().pos_weight(or("pos_weight", 1.0)).unwrap();
                        first * bce + second * focal.gamma(or("gamma", 2.0)).unwrap()
                    }
                    ["log_cosh", "quantile"] => {
                        first * LogCosh::new() + second * Quantile::new(or("quantile", 0.5)).unwrap()
                    }
                    ["poisson_nll", "mse"] => first * PoissonNll::new().full(c.flag("full")) + second * Mse::new(),
                    ["soft_margin", "squared_hinge"] => {
                        first * SoftMargin::new() + second * SquaredHinge::new().labels(c.labels())
                    }
                    terms => panic!("no such sum: {terms:?}"),
                };
                c.elementwise(|x, t| sum.call(x, t));
                let (x, t) = (c.floats("input").unwrap(), c.floats("target").unwrap());
                c.terms(|terms, reduction| sum.call(&x, &t).terms(terms).forward(reduction));
            }
            "task_uncertainty" => c.task_uncertainty(),
            // Of a feature: tests/head/golden.rs.
            "linear_cross_entropy" | "info_nce" => {}
            "gan" => c.gan(),
            "log_cosh" => c.elementwise(|x, t| LogCosh::new().call(x, t)),
            "quantile" => c.elementwise(|x, t| Quantile::new(or("quantile", 0.5)).unwrap().call(x, t)),
            "poisson_nll" => {
                let log_input = c.0["options"].get("log_input").is_none_or(|x| x.as_bool().unwrap());
                let loss = PoissonNll::new().log_input(log_input).full(c.flag("full")).eps(or("eps", 1e-8)).unwrap();
                c.elementwise(|x, t| loss.call(x, t));
            }
            // The third tensor is among what is added to any call.
            "gaussian_nll" => {
                let loss = GaussianNll::new().full(c.flag("full")).eps(or("eps", 1e-6)).unwrap();
                c.elementwise(|x, t| loss.call(x, t, &[]));
            }
            "margin_ranking" => {
                let loss = MarginRanking::new(or("margin", 0.0)).unwrap();
                c.elementwise(|x, t| loss.call(x, t, &[]));
            }
            "triplet_margin" => {
                let loss = TripletMargin::new().margin(or("margin", 1.0)).unwrap().eps(or("eps", 1e-6)).unwrap();
                c.dense(|x, t, shape| loss.swap(c.flag("swap")).call(x, t, &[], shape));
            }
            "cosine_embedding" => {
                let loss = CosineEmbedding::new(or("margin", 0.0)).unwrap();
                c.dense(|x, t, shape| loss.call(x, t, &[], shape));
            }
            "combined_rows" => {
                let [hard, soft] = c.weights();
                let cross_entropy = CrossEntropy::new().label_smoothing(or("label_smoothing", 0.0)).unwrap();
                let cross_entropy = cross_entropy.z_loss(or("z_loss", 0.0)).unwrap().ignore_index(c.ignore_index());
                let loss =
                    hard * cross_entropy + soft * Distillation::new().temperature(or("temperature", 1.0)).unwrap();
                c.classes(|x, t, shape| loss.call(x, t, &[], shape));
                let (x, third) = (c.floats("input").unwrap(), c.floats("third").unwrap());
                let t: Vec<i64> = c.numbers("target").unwrap().into_iter().map(|t| t as i64).collect();
                c.terms(|terms, reduction| loss.call(&x, &t, &third, c.shape()).terms(terms).forward(reduction));
            }
            "dpo" => {
                let variant = match c.word("variant") {
                    "hinge" => DpoVariant::Hinge,
                    "ipo" => DpoVariant::Ipo,
                    _ => DpoVariant::Sigmoid,
                };
                let loss = Dpo::new(or("beta", 0.1)).unwrap().label_smoothing(or("label_smoothing", 0.0)).unwrap();
                c.elementwise(|x, t| loss.variant(variant).call(x, t, &[]));
            }
            "jsd" => {
                let loss = Jsd::new().beta(or("beta", 0.5)).unwrap().temperature(or("temperature", 1.0)).unwrap();
                c.classes(|x, t, shape| loss.call(x, t, shape));
            }
            "box_iou" => {
                let loss = match c.word("kind") {
                    "giou" => BoxIou::giou(),
                    "diou" => BoxIou::diou(),
                    "ciou" => BoxIou::ciou(),
                    _ => BoxIou::iou(),
                };
                c.classes(|x, t, shape| loss.call(x, t, shape));
            }
            "soft_margin" => c.elementwise(|x, t| SoftMargin::new().call(x, t)),
            "gradient_penalty" => {
                let loss = match c.word("kind") {
                    "r1" => GradientPenalty::r1(c.option("gamma").unwrap()),
                    _ => GradientPenalty::wgan_gp(c.option("lambda").unwrap()),
                };
                let [n, d] = c.dims()[..] else { panic!("two axes") };
                c.run(loss.unwrap().call(&c.floats("input").unwrap(), (n, d)));
            }
            other => panic!("no such loss: {other}"),
        }
    }
    assert!(cases.len() > 400, "the file is whole");
}
