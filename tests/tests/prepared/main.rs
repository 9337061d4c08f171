//! Is a prepared image the tree that it was made from, for its reader, for Linux and for a guest?
#![cfg(test)]

mod facts;
mod format_foreign;
mod format_size;
mod format_written;
mod kernel_mount;
mod prepare_command;
mod prepare_directory;
mod prepare_inspect;
mod prepare_layers;
mod prepare_oci;
mod prepare_output;
mod prepare_tar;
mod random_tree;
mod sample;
mod serve_changes;
mod serve_dax;
mod serve_filter;
mod serve_hostile;
mod serve_mount;
mod serve_restart;
mod serve_start;
mod serve_verity;
mod serve_wire;
