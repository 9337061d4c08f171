//! Can a guest do harm by the content, the amount or the order of its messages?
#![cfg(test)]

mod floods;
mod messages;
mod names;
mod starvation;
mod volume;
