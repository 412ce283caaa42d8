//! Losses of three tensors: the third is there, as long as it must be, and of no other loss.

use super::*;

#[test]
fn the_third_tensor_is_as_long_as_it_must_be() {
    let (x, short) = ([0.5f32; 4], [0.5f32; 3]);
    let (mut grad, mut grad_third, mut grad_short) = ([100.0; 4], [100.0; 4], [100.0; 3]);
    let nll = GaussianNll::new();
    let length = |what| Err(Error::Length { what, expected: 4, got: 3 });
    assert_eq!(nll.forward(&x, &x, &short, Mean), length("third"));
    assert_eq!(nll.forward(&x, &short, &x, Mean), length("target"));
    assert_eq!(nll.forward_backward(&x, &x, &short, Mean, &mut grad, &mut grad_third), length("third"));
    assert_eq!(nll.forward_backward(&x, &x, &x, Mean, &mut grad, &mut grad_short), length("grad_third"));
    assert_eq!(
        nll.forward_backward(&x, &x, &x, Mean, &mut grad_short, &mut grad_third),
        Err(Error::Length { what: "grad_input", expected: 4, got: 3 })
    );
    assert_eq!((grad, grad_third, grad_short), ([100.0; 4], [100.0; 4], [100.0; 3]));
}

#[test]
fn there_is_a_label_for_each_row() {
    let (x, mut grad, mut grad_target) = ([0.5f32; 6], [100.0; 6], [100.0; 6]);
    let cosine = CosineEmbedding::default();
    let error = |labels: &[f32], got| {
        assert_eq!(
            cosine.call(&x, &x, labels, (2, 3)).forward(Mean),
            Err(Error::Length { what: "third", expected: 2, got })
        );
    };
    error(&[1.0], 1);
    error(&x, 6);
    let call = cosine.call(&x, &x, &[1.0, -1.0], (2, 3)).grad_third(&mut grad_target);
    let refused = call.forward_backward(Mean, &mut grad).unwrap_err();
    assert_eq!(refused.to_string(), "cosine embedding: a gradient for the third tensor is not supported");
    assert_eq!((grad, grad_target), ([100.0; 6], [100.0; 6]));
}

#[test]
fn a_negative_is_as_long_as_its_anchor() {
    let (x, mut grad, mut grad_third) = ([0.5f32; 6], [100.0; 6], [100.0; 5]);
    let triplet = TripletMargin::new();
    let length = |what, got| Err(Error::Length { what, expected: 6, got });
    assert_eq!(triplet.forward(&x, &x, &x[..2], (2, 3), Mean), length("third", 2));
    assert_eq!(triplet.forward(&x, &x[..5], &x, (2, 3), Mean), length("target", 5));
    let call = triplet.call(&x, &x, &x, (2, 3)).grad_third(&mut grad_third);
    assert_eq!(call.forward_backward(Mean, &mut grad), length("grad_third", 5));
    assert_eq!((grad, grad_third), ([100.0; 6], [100.0; 5]));
}

#[test]
fn a_teacher_is_as_long_as_its_student_and_gets_no_gradient() {
    let (x, index, mut grad, mut grad_third) = ([0.5f32; 6], [0u8, 2], [100.0; 6], [100.0; 6]);
    let loss = CrossEntropy::new() + Distillation::new();
    let third = loss.forward(&x, &index, &x[..5], (2, 3), Mean);
    assert_eq!(third, Err(Error::Length { what: "third", expected: 6, got: 5 }));
    let error = |result: Result<f32>| result.unwrap_err().to_string();
    let call = loss.call(&x, &index, &x, (2, 3)).grad_third(&mut grad_third);
    let refused = error(call.forward_backward(Mean, &mut grad));
    assert_eq!(refused, "combined row loss: a gradient for the third tensor is not supported");
    let refused = error(loss.forward(&x, &x, &x, (2, 3), Mean));
    assert_eq!(refused, "combined row loss: a target of this kind is not supported");
    let weighed = loss.call(&x, &index, &x, (2, 3)).class_weight(&[1.0; 3]).forward_backward(Mean, &mut grad);
    assert_eq!(error(weighed), "combined row loss: a class weight is not supported");
    let bent = CrossEntropy::new().softcap(30.0).unwrap() + Distillation::new();
    let refused = error(bent.forward_backward(&x, &index, &x, (2, 3), Mean, &mut grad));
    assert_eq!(refused, "combined row loss: a soft-cap beside a distillation is not supported");
    let infinite = f32::INFINITY * loss;
    let refused = error(infinite.forward_backward(&x, &index, &x, (2, 3), Mean, &mut grad));
    assert_eq!(refused, "weight of a term: expected a finite number, got inf");
    let mut terms = [100.0; 2];
    let call = loss.call(&x, &index, &x, (2, 3)).terms(&mut terms);
    let short = call.forward_backward(Mean, &mut grad);
    assert_eq!(short, Err(Error::Length { what: "terms", expected: 3, got: 2 }));
    let call = loss.call(&x, &index, &x, (2, 3)).terms(&mut terms);
    let refused = call.forward_unreduced(&mut [0.0; 2]).unwrap_err().to_string();
    assert!(refused.contains("terms: expected 3"), "{refused}");
    assert_eq!((grad, grad_third, terms), ([100.0; 6], [100.0; 6], [100.0; 2]));
}

#[test]
fn a_box_has_four_numbers() {
    let (x, mut grad) = ([0.5f32; 6], [100.0; 6]);
    let error = BoxIou::giou().forward_backward(&x, &x, (2, 3), Mean, &mut grad).unwrap_err();
    assert_eq!(error.to_string(), "box IoU: a box of other than four numbers is not supported");
    assert_eq!(grad, [100.0; 6]);
}

#[test]
fn a_third_tensor_is_refused_where_it_means_nothing() {
    let x = [0.5f32; 4];
    let (mut grad, mut grad_third) = ([100.0; 4], [100.0; 4]);
    let what = |error: Result<f32>| match error.unwrap_err() {
        Error::Unsupported { what, .. } => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(Mse::new().call(&x, &x).third(&x).forward(Mean)), "a third tensor");
    let call = Mse::new().call(&x, &x).grad_third(&mut grad_third);
    assert_eq!(what(call.forward_backward(Mean, &mut grad)), "a third tensor");
    let call = CrossEntropy::new().call(&x, &[0u8, 1], (2, 2)).third(&x);
    assert_eq!(what(call.forward(Mean)), "a third tensor");
    let call = DiceLoss::new().call(&x, &x, (2, 2)).third(&x);
    assert_eq!(what(call.forward(Mean)), "a third tensor");
    let call = GaussianNll::new().call(&x, &x, &x).grad_third(&mut grad_third);
    assert_eq!(what(call.forward(Mean)), "grad_third of a call that computes no gradient");
    assert_eq!((grad, grad_third), ([100.0; 4], [100.0; 4]));
}
