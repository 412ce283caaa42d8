//! Which rows the table has.

use crate::options::Options;
use crate::timing::beyond::Beyond;
use crate::timing::cases::draw::Dims;
use crate::timing::cases::{Case, Family};
use crate::timing::{Dtype, list};

pub type Wanted<'a> = (&'a Case, Dims, Dtype);

/// What the options ask for, or what they ask for that cannot be.
pub fn choose<'a>(table: &'a [Case], options: &Options, gpu: bool) -> Result<Vec<Wanted<'a>>, String> {
    let mut problems: Vec<(&Case, Dims)> = Vec::new();
    if options.losses.is_empty() {
        problems = unnamed(table, options, gpu);
        if problems.is_empty() {
            return Err("no loss has a size of that kind".into());
        }
    }
    for name in options.losses.iter().filter(|name| !is_beyond(table, name)) {
        let case = named(table, name)?;
        match &options.size {
            Some(size) => problems.push((case, list::fit(case, size)?)),
            None => problems.extend(usual(table, case, options.full, gpu)),
        }
    }
    let all = problems.into_iter().flat_map(|(case, dims)| options.dtypes.iter().map(move |&d| (case, dims, d)));
    Ok(all.collect())
}

/// The calls that are not in the case table which the options ask for; on the CPU alone.
pub fn choose_beyond(table: &[Case], options: &Options, gpu: bool) -> Result<Vec<Beyond>, String> {
    let asked = |beyond: &Beyond| {
        let by_name = |name: &String| is_beyond(table, name) && beyond.name().starts_with(name.as_str());
        options.losses.iter().any(by_name) || options.losses.is_empty() && options.full && !gpu
    };
    let chosen: Vec<Beyond> = Beyond::ALL.iter().copied().filter(asked).collect();
    match (chosen.first(), &options.size) {
        (Some(first), _) if gpu => Err(format!("{} is measured on the CPU", first.name())),
        (Some(_), Some(_)) if options.losses.is_empty() => Ok(Vec::new()),
        (Some(first), Some(_)) => Err(format!("{} has a size of its own", first.name())),
        _ => Ok(chosen),
    }
}

/// Whether a name is of none that is in the table, but of one that is not.
fn is_beyond(table: &[Case], name: &str) -> bool {
    !name.is_empty() && list::find(table, name).is_none() && Beyond::ALL.iter().any(|b| b.name().starts_with(name))
}

/// The loss of this name, or an error that lists what there is.
pub fn named<'a>(table: &'a [Case], name: &str) -> Result<&'a Case, String> {
    list::find(table, name).ok_or_else(|| {
        let mut families: Vec<&str> = table.iter().map(|case| family(&case.name)).collect();
        families.extend(Beyond::ALL.iter().map(|beyond| family(beyond.name())));
        families.dedup();
        families.sort_unstable();
        families.dedup();
        format!("no loss begins with '{name}'; there are {}", families.join(", "))
    })
}

/// A name without its options.
pub fn family(name: &str) -> &str {
    name.split('[').next().unwrap_or(name)
}

fn unnamed<'a>(table: &'a [Case], options: &Options, gpu: bool) -> Vec<(&'a Case, Dims)> {
    let problems = if options.full { all(table, gpu) } else { representative(table, gpu) };
    let Some(size) = &options.size else { return problems };
    // Those that can have this size, once each.
    let mut fitting: Vec<(&Case, Dims)> = Vec::new();
    for (case, _) in problems {
        if let (Ok(dims), false) = (list::fit(case, size), fitting.iter().any(|(c, _)| c.name == case.name)) {
            fitting.push((case, dims));
        }
    }
    fitting
}

fn representative(table: &[Case], gpu: bool) -> Vec<(&Case, Dims)> {
    let case = |name| list::find(table, name).expect("a row of the case table");
    let rows: &[_] = if gpu { &list::REPRESENTATIVE_GPU } else { &list::REPRESENTATIVE };
    rows.iter().map(|&(name, shape)| (case(name), list::dims(shape))).collect()
}

/// Every loss that the benches time; of the element-wise ones at the largest size. On a GPU all of them sixteen times as large.
fn all(table: &[Case], gpu: bool) -> Vec<(&Case, Dims)> {
    let largest = list::SIZES[list::SIZES.len() - 1];
    let flat = |case: &Case| matches!(case.family, Family::Elements { .. });
    let problems = list::everything(table).into_iter().filter(|(case, dims)| !flat(case) || dims.outer == largest);
    let times = if gpu { 16 } else { 1 };
    problems.map(|(case, dims)| (case, Dims { outer: times * dims.outer, ..dims })).collect()
}

/// The sizes that a loss is usually measured at.
fn usual<'a>(table: &'a [Case], case: &'a Case, full: bool, gpu: bool) -> Vec<(&'a Case, Dims)> {
    let of = |problems: Vec<(&'a Case, Dims)>| -> Vec<_> {
        problems.into_iter().filter(|(c, _)| c.name == case.name).collect()
    };
    let representative = of(representative(table, gpu));
    if !full && !representative.is_empty() {
        return representative;
    }
    match (of(all(table, gpu)), &case.family) {
        (all, _) if !all.is_empty() => all,
        (_, Family::Elements { .. }) => vec![(case, Dims::new(1 << 24, 1, 1))],
        (_, Family::Rows { .. }) => vec![(case, Dims::new(16384, 1000, 1))],
        (_, Family::Regions { .. }) => vec![(case, Dims::new(4, 4, 1 << 20))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::cases::draw::Problem;

    fn names(line: &str) -> Result<Vec<String>, String> {
        let options = Options::parse(line.split_whitespace().map(String::from)).unwrap().unwrap();
        let table = list::table();
        let rows = choose(&table, &options, false)?;
        let name = |(case, dims, d): &Wanted| format!("{} {:?} {}", case.name, list::shape(case, *dims), d.name());
        let beyond = choose_beyond(&table, &options, false)?;
        Ok(rows.iter().map(name).chain(beyond.iter().map(|beyond| beyond.name().into())).collect())
    }

    /// Options of which a loss has no row of its own: numbers, weights, kinds of targets and labels, activations, what is left out. Every
    /// other, as the kinds of boxes are, makes a loss that is timed.
    const OPTIONS: [&str; 30] = [
        "epsilon",
        "eps",
        "smoothing",
        "label",
        "close",
        "half",
        "full",
        "rate",
        "swap",
        "z_loss",
        "alpha",
        "no alpha",
        "not by T^2",
        "weights",
        "pos_weight",
        "pos_weight per class",
        "dense",
        "index",
        "soft",
        "keras",
        "zero-one",
        "ignored class",
        "none ignored",
        "softmax",
        "batch",
        "no background",
        "squared",
        "jaccard",
        "simple",
        "uniform",
    ];

    /// A family, and beside it each option that makes a loss: of `dpo[hinge+beta=0.1]` it is `hinge`.
    fn variants(name: &str) -> Vec<(&str, &str)> {
        fn number(text: &str) -> bool {
            text.parse::<f32>().is_ok()
        }
        /// Of `focal 0.75` the word.
        fn word(option: &str) -> &str {
            option.trim().rsplit_once(' ').filter(|(_, last)| number(last)).map_or(option.trim(), |(word, _)| word)
        }
        let options = name[family(name).len()..].split(['[', ']', '+', ',']).map(word);
        let named = options.filter(|o| !o.contains('=') && !number(o) && !OPTIONS.contains(o));
        named.chain([""]).map(|option| (family(name), option)).collect()
    }

    #[test]
    fn every_loss_of_the_case_table_and_every_variant_is_timed() {
        let table = list::table();
        let everything = list::everything(&table);
        let timed: Vec<(&str, &str)> = everything.iter().flat_map(|(case, _)| variants(&case.name)).collect();
        // Of the sums of elements two are enough: any cost what their terms do.
        let cases = table.iter().filter(|case| family(&case.name) != "combined");
        let mut missing: Vec<(&str, &str)> = cases.flat_map(|case| variants(&case.name)).collect();
        missing.retain(|variant| !timed.contains(variant));
        missing.sort_unstable();
        missing.dedup();
        assert!(missing.is_empty(), "{missing:?} are not timed");
    }

    #[test]
    fn names_may_be_cut_short() {
        assert_eq!(names("--loss huber --dtype f16").unwrap(), ["huber[delta=1] [16777216] f16"]);
        assert_eq!(names("--loss bce --dtype f32 --size 8").unwrap(), ["bce [8] f32"]);
        assert_eq!(names("--loss nll --dtype f32 --size 3x2x5").unwrap(), ["nll [3, 2, 5] f32"]);
        assert_eq!(names("--loss cross_entropy_a,nll --dtype f32").unwrap()[1..], ["cross_entropy_across[ranks=2]"]);
        assert_eq!(names("--loss cross_entropy_across").unwrap(), ["cross_entropy_across[ranks=2]"]);
        assert_eq!(names("").unwrap().len(), 14 * 3);
        assert!(names("--full").unwrap().len() > 100);
        assert!(names("--size 32x8 --dtype f32").unwrap().iter().all(|name| name.contains("[32, 8]")));
    }

    #[test]
    fn what_cannot_be_is_said_in_one_line() {
        for (line, said) in [
            ("--loss foo", "'foo'"),
            ("--loss mse,", "''"),
            ("--loss mse --size 3x4", "element-wise"),
            ("--loss cross_entropy_across --size 3x4", "a size of its own"),
            ("--loss nll --size 3", "ROWSxCLASSES"),
            ("--loss mse --size 2^47x2^47", "above zero"),
        ] {
            let error = names(line).unwrap_err();
            assert!(error.contains(said) && !error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn the_fewest_bytes_are_those_of_the_buffers() {
        for case in &list::table() {
            let flat = matches!(case.family, Family::Elements { .. });
            let dims = case.fit(if flat { Dims::new(6, 1, 1) } else { Dims::new(3, 2, 1) });
            let problem = Problem::<half::f16>::draw(case, dims, 1);
            let targets = match case.targets {
                crate::timing::cases::Targets::Index => 8 * dims.rows(),
                crate::timing::cases::Targets::Dense(_) => 2 * dims.elements(),
                crate::timing::cases::Targets::Nothing => 0,
            };
            let tensors = 4 * problem.input.len()
                + dims.rows() * list::reported(case)
                + targets
                + 2 * problem.third.map_or(0, |third| third.len());
            assert_eq!(list::fewest_bytes(case, dims, 2), tensors, "{}", case.name);
        }
    }
}
