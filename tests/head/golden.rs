//! The golden values of heads; `tests/golden/generate.py` made them.

use serde_json::Value;

use super::cases::textbook::CrossEntropyOptions;
use super::problem::{Problem, close};

/// What f32 arithmetic may be off by on the CPU, and with the products of a GPU, which adds in another order.
pub const HERE: f64 = 1e-6;
#[cfg(feature = "cuda")]
pub const ON_A_GPU: f64 = 4e-6;

/// One recorded case.
pub struct Case(Value);

/// The cases of a loss.
pub fn cases(loss: &str) -> Vec<Case> {
    let file: Value = serde_json::from_str(include_str!("../golden/golden.json")).unwrap();
    let cases = file["cases"].as_array().unwrap().iter().filter(|case| case["loss"] == loss);
    let cases: Vec<_> = cases.map(|case| Case(case.clone())).collect();
    assert!(cases.len() >= 3, "the file is whole");
    cases
}

impl Case {
    pub fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        let list = self.0.get(key)?;
        let Some(list) = list.as_array() else { return list.as_f64().map(|x| vec![x]) };
        Some(list.iter().map(|x| x.as_f64().unwrap()).collect())
    }

    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        Some(self.numbers(key)?.into_iter().map(|x| x as f32).collect())
    }

    pub fn option(&self, key: &str) -> Option<f64> {
        self.0["options"].get(key)?.as_f64()
    }

    pub fn flag(&self, key: &str) -> bool {
        self.0["options"][key].as_bool().unwrap()
    }

    pub fn shape(&self) -> (usize, usize, usize) {
        let [a, b, c] = [0, 1, 2].map(|i| self.0["shape"][i].as_u64().unwrap() as usize);
        (a, b, c)
    }

    /// Fails unless this is what is recorded, to a share of the largest number.
    pub fn check(&self, key: &str, got: &[f32], tolerance: f64) {
        let want = self.numbers(key).unwrap();
        assert_eq!(want.len(), got.len(), "{}: length of {key}", self.0["name"]);
        close(&format!("{}: {key}", self.0["name"]), &want, got, tolerance);
    }

    /// Of `linear_cross_entropy`.
    pub fn problem(&self) -> Problem<f32> {
        let option = |key| self.option(key).unwrap_or(0.0);
        Problem {
            shape: self.shape(),
            input: self.floats("input").unwrap(),
            weight: self.floats("weight").unwrap(),
            bias: self.floats("bias"),
            target: self.numbers("target").unwrap().into_iter().map(|t| t as i64).collect(),
            class_weight: self.floats("class_weight"),
            token_weight: None,
            options: CrossEntropyOptions {
                smoothing: option("label_smoothing"),
                z_loss: option("z_loss"),
                softcap: self.option("softcap"),
            },
        }
    }
}
