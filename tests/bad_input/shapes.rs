//! Shapes, and the memory of devices.

use super::*;

#[test]
fn shapes_that_are_none_or_do_not_hold_the_input_are_refused() {
    assert_eq!(Shape::last_axis(&[]), Err(Error::Rank { expected: 1, got: 0 }));
    assert_eq!(Shape::channels_first(&[7]), Err(Error::Rank { expected: 2, got: 1 }));
    assert_eq!(Error::Rank { expected: 2, got: 1 }.to_string(), "shape: expected at least 2 axes, got 1");
    let (max, half) = (usize::MAX, usize::MAX / 2 + 1);
    for dims in [&[max, max][..], &[max, 2], &[half, 2], &[2, half], &[2, max, 1], &[2, 1, max, max], &[half, 1]] {
        assert_eq!(Shape::channels_first(dims), Err(Error::ShapeOverflow), "{dims:?}");
        assert_eq!(Shape::last_axis(dims), Err(Error::ShapeOverflow), "{dims:?}");
    }
    let shapes: [Shape; 6] = [
        (max, max).into(),
        (max, 2).into(),
        [2, max].into(),
        [1, 2, max].into(),
        [1, 2, max, max].into(),
        [1, 2, max, 2, max].into(),
    ];
    each::<f32>(|loss, data, right| {
        if loss.form == Form::Element {
            return;
        }
        for verb in [Do::ForwardBackward(Mean), Do::InPlace(Sum), Do::UnreducedBackward] {
            for shape in shapes {
                assert_eq!(
                    attempt(loss, data, shape, right, verb),
                    Err(Error::ShapeOverflow),
                    "{} {shape:?}",
                    loss.name
                );
            }
            for shape in
                [(4, 34).into(), [4, 5, 8].into(), [0, 5].into(), (140, 0).into(), [4, 0, 7].into(), (0, 0).into()]
            {
                let got = attempt(loss, data, shape, right, verb);
                let length = Error::Length { what: "input", expected: shape.elements(), got: 140 };
                let classes = Error::Option { name: "shape", expected: "at least one class", got: 0.0 };
                assert_eq!(got, Err(if shape.classes() == 0 { classes } else { length }), "{} {shape:?}", loss.name);
            }
        }
    });
}

/// NumPy multiplies what is not zero of a shape without elements, for the same reason.
#[test]
fn a_shape_without_elements_takes_neither_time_nor_memory() {
    let dice = DiceLoss::new();
    let calls = [
        (dice, [usize::MAX, 2, 0]),
        (dice, [1 << 50, 1, 0]),
        (dice.batch(true), [0, 1 << 60, 1]),
        (dice.softmax().batch(true), [0, 1 << 60, 1]),
        (dice.softmax(), [1, 1 << 60, 0]),
    ];
    for ((loss, dims), weighted) in calls.into_iter().flat_map(|call| [(call, false), (call, true)]) {
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let call = loss.call(&[], Target::Dense::<f32>(&[]), dims);
            let weight = vec![1.0; dims[1].min(2)];
            done.send(if weighted { call.class_weight(&weight).forward(Sum) } else { call.forward(Sum) })
        });
        let got = wait.recv_timeout(std::time::Duration::from_secs(5));
        let got = got.unwrap_or_else(|e| panic!("{loss:?} {dims:?}, weighted: {weighted}: {e}"));
        let refused = Err(Error::Length { what: "class_weight", expected: dims[1], got: 2 });
        assert!(got == Ok(0.0) || got == Err(Error::ShapeOverflow) || weighted && got == refused, "{dims:?}: {got:?}");
    }
}

/// The third door checks what the first does.
#[test]
fn buffers_of_a_device_are_checked_like_slices() {
    let device = Device::cpu();
    let buffer = |n| device.buffer(&vec![0.5f32; n]).unwrap();
    let (input, target, mut grad) = (buffer(6), buffer(5), buffer(6));
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    assert_eq!(Mse::new().on(&device).forward_backward(&input, &target, Mean, &mut grad), length("target", 6, 5));
    let (mut short, full) = (buffer(4), buffer(6));
    assert_eq!(Mse::new().on(&device).forward_backward(&input, &full, Mean, &mut short), length("grad_input", 6, 4));
    let index = device.buffer(&[3i64, 0]).unwrap();
    let got = CrossEntropy::new().on(&device).forward_backward(&input, &index, (2, 3), Mean, &mut grad);
    let no_class = Error::ClassIndex { row: 0, index: 3, classes: 3 };
    assert_eq!(got, Err(no_class.clone()));
    let (on, up, mut rows) = (CrossEntropy::new().on(&device), buffer(2), buffer(2));
    let got = on.forward_backward_unreduced(&input, &index, (2, 3), &up, &mut rows, &mut grad);
    assert_eq!((got, on.log_probs(&input, &index, (2, 3), &mut rows)), (Err(no_class.clone()), Err(no_class)));
    let got = Mse::new().on(&device).forward_backward_unreduced(&input, &full, &up, &mut buffer(6), &mut grad);
    assert_eq!(got, length("grad_output", 6, 2).map(drop));
    assert_eq!(Mse::new().on(&device).forward_unreduced(&input, &full, &mut rows), length("losses", 6, 2).map(drop));
    assert_eq!(rows.to_vec(), Ok(vec![0.5; 2]), "nothing was written");
    let mut host = [100.0; 5];
    assert_eq!((full.read(&mut host), host), (length("buffer", 6, 5).map(|_: f32| ()), [100.0; 5]));
    assert_eq!(grad.write(&host), length("buffer", 6, 5).map(|_: f32| ()));
    assert_eq!((grad.to_vec(), short.to_vec()), (Ok(vec![0.5; 6]), Ok(vec![0.5; 4])), "nothing was written");
}

#[test]
fn more_memory_than_there_can_be_is_an_error() {
    for len in [usize::MAX, isize::MAX as usize, isize::MAX as usize / 4 + 1] {
        assert!(Device::cpu().zeros::<f32>(len).is_err(), "{len}");
    }
}
