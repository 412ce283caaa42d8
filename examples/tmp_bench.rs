use fused_loss::*; use std::time::Instant; use rayon::prelude::*;
fn med(mut f: impl FnMut(), reps: usize)->f64{ f(); let mut v:Vec<f64>=(0..reps).map(|_|{let s=Instant::now();f();s.elapsed().as_secs_f64()}).collect(); v.sort_by(|a,b|a.partial_cmp(b).unwrap()); v[reps/2]}
fn go<T:Element>(p:u32){
 let n=1usize<<p;
 let x:Vec<T>=(0..n).map(|i|T::from_f32((i%97) as f32*0.1-4.8)).collect(); let t:Vec<T>=(0..n).map(|i|T::from_f32((i%3==0) as u8 as f32)).collect(); let mut g=vec![T::from_f32(0.0);n];
 let pr:Vec<T>=(0..n).map(|i|T::from_f32((i%97) as f32*0.01+0.01)).collect();
 let lp:Vec<T>=(0..n).map(|i|T::from_f32(((i%97) as f32*0.01+0.01).ln())).collect();
 let reps= if p<20 {301} else {15};
 let b=size_of::<T>() as f64*n as f64*1e-9;
 let nt=rayon::current_num_threads();
 let copy=|g:&mut [T]| if p<17 {2.0*b/med(||g.copy_from_slice(&x),reps)} else {2.0*b/med(||g.par_chunks_mut(n/nt).zip(x.par_chunks(n/nt)).for_each(|(g,x)|g.copy_from_slice(x)),reps)};
 println!("{} n=2^{p}", T::NAME);
 macro_rules! r{($name:literal,$passes:expr,$e:expr)=>{{ let c=copy(&mut g); let mut f=$e; let t=med(||{std::hint::black_box(f(&mut g));},reps); println!("{:14} {:8.3} us {:6.1} GB/s  copy {:5.1} share {:.2}",$name,t*1e6,$passes*b/t,c,$passes*b/t/c); }}}
 r!("mse",3.0,|g:&mut Vec<T>|Mse::new().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("mae",3.0,|g:&mut Vec<T>|Mae::new().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("huber",3.0,|g:&mut Vec<T>|Huber::default().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("hinge",3.0,|g:&mut Vec<T>|Hinge::new().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("bce",3.0,|g:&mut Vec<T>|Bce::new().forward_backward(&pr,&t,Reduction::Mean,g).unwrap());
 r!("bce_logits",3.0,|g:&mut Vec<T>|BceWithLogits::new().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("focal",3.0,|g:&mut Vec<T>|SigmoidFocal::new().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("focal g1.5",3.0,|g:&mut Vec<T>|SigmoidFocal::new().gamma(1.5).unwrap().forward_backward(&x,&t,Reduction::Mean,g).unwrap());
 r!("kl",3.0,|g:&mut Vec<T>|KlDiv::new().forward_backward(&lp,&pr,Reduction::Mean,g).unwrap());
 r!("gan",2.0,|g:&mut Vec<T>|GanLoss::default().generator(&x,Reduction::Mean,g).unwrap());
 r!("mse fwd",2.0,|_g:&mut Vec<T>|Mse::new().forward(&x,&t,Reduction::Mean).unwrap());
}
fn main(){ for p in [12,16,20,24]{ go::<f32>(p); } go::<half::bf16>(24); go::<half::f16>(24); }
