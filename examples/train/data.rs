//! The data sets. They are part of the program, so that it runs from anywhere;
//! `examples/data/README.md` says where they come from.

use ndarray::{Array2, Axis};

/// Rows of features, and the target of each row.
pub struct Set<T> {
    pub x: Array2<f32>,
    pub y: Vec<T>,
}

/// What to train on, and what to test on; nothing is ever fitted to the latter.
pub struct Split<T> {
    pub train: Set<T>,
    pub test: Set<T>,
}

/// What a target of 1.0 of [`diabetes`] is in the data set.
pub const DIABETES_UNIT: f32 = 100.0;

/// 442 patients: ten measurements, and how far the disease had progressed a year later (25 to 346, here
/// divided by the unit). Five splits, in which each row is tested once.
pub fn diabetes() -> Vec<Split<f32>> {
    let rows: Vec<_> = read(include_str!("../data/diabetes.csv").lines(), |y| y / DIABETES_UNIT).collect();
    (0..5).map(|fold| split(&rows, fold).standardised()).collect()
}

/// 569 tumours: thirty measurements of their cells, and 1.0 for a malignant one. Five splits, in
/// which each row is tested once.
pub fn tumours() -> Vec<Split<f32>> {
    // After a line of names. The file says 0 for malignant; here that is what is to be found.
    let lines = include_str!("../data/breast_cancer.csv").lines().skip(1);
    let rows: Vec<_> = read(lines, |y| 1.0 - y).collect();
    (0..5).map(|fold| split(&rows, fold).standardised()).collect()
}

/// 1797 handwritten digits: 8 x 8 pixels from 0.0 to 1.0, and the digit. One split: every fifth is for
/// the test.
pub fn digits() -> Split<u8> {
    let rows: Vec<_> = read(include_str!("../data/digits.csv").lines(), |y| y as u8).collect();
    let mut digits = split(&rows, 0);
    digits.train.x /= 16.0;
    digits.test.x /= 16.0;
    digits
}

/// Lines of numbers, the last of which is the target.
fn read<T>(
    lines: impl Iterator<Item = &'static str>,
    target: impl Fn(f32) -> T,
) -> impl Iterator<Item = (Vec<f32>, T)> {
    lines.map(move |line| {
        let mut numbers: Vec<f32> = line.split(',').map(|number| number.parse().expect("a number")).collect();
        let y = target(numbers.pop().expect("a target"));
        (numbers, y)
    })
}

/// Every fifth row, from row `fold` on, is for the test.
fn split<T: Copy>(rows: &[(Vec<f32>, T)], fold: usize) -> Split<T> {
    let part = |test: bool| {
        let rows = || rows.iter().enumerate().filter(move |(i, _)| (i % 5 == fold) == test).map(|(_, row)| row);
        let y: Vec<T> = rows().map(|(_, y)| *y).collect();
        let x: Vec<f32> = rows().flat_map(|(x, _)| x).copied().collect();
        Set { x: Array2::from_shape_vec((y.len(), x.len() / y.len()), x).expect("rows of equal length"), y }
    };
    Split { train: part(false), test: part(true) }
}

impl<T: Copy> Set<T> {
    /// The rows with these indices.
    pub fn rows(&self, rows: &[usize]) -> Self {
        Set { x: self.x.select(Axis(0), rows), y: rows.iter().map(|&row| self.y[row]).collect() }
    }
}

impl<T> Split<T> {
    /// Shifts and scales each feature to mean 0 and standard deviation 1 on the training rows, and the
    /// test rows by the same numbers.
    fn standardised(mut self) -> Self {
        let mean = self.train.x.mean_axis(Axis(0)).expect("at least one row");
        let deviation = self.train.x.std_axis(Axis(0), 0.0);
        for x in [&mut self.train.x, &mut self.test.x] {
            *x -= &mean;
            *x /= &deviation;
        }
        self
    }
}
