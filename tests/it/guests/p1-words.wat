;; Leaves words and ends: `p1-words CODE [WHERE TEXT]…`. WHERE is `-` for standard output, or the name
;; of a file that is there already in one of the preopens and may be written. CODE is one digit.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; 0: the number of arguments; 8: an iovec; 16: what was written; 24: a descriptor;
  ;; 1024: pointers to the arguments; 2048: the arguments
  (func $argument (param $index i32) (result i32)
    (i32.load (i32.add (i32.const 1024) (i32.shl (local.get $index) (i32.const 2)))))
  (func $length (param $text i32) (result i32)
    (local $at i32)
    (local.set $at (local.get $text))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (i32.load8_u (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $at) (local.get $text)))
  (func $place (param $where i32) (result i32)
    (local $fd i32)
    (if (i32.eq (i32.load8_u (local.get $where)) (i32.const 45))
      (then (return (i32.const 1))))
    (local.set $fd (i32.const 3))
    (loop $next
      ;; With the right to write, and without O_CREAT.
      (if (i32.eqz (call $open (local.get $fd) (i32.const 0) (local.get $where)
            (call $length (local.get $where)) (i32.const 0) (i64.const 64) (i64.const 0)
            (i32.const 0) (i32.const 24)))
        (then (return (i32.load (i32.const 24)))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 16))))
    (call $exit (i32.const 99))
    (unreachable))
  (func (export "_start")
    (local $index i32)
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 2048)))
    (local.set $index (i32.const 2))
    (block $end
      (loop $next
        (br_if $end (i32.ge_u (i32.add (local.get $index) (i32.const 1)) (i32.load (i32.const 0))))
        (i32.store (i32.const 8) (call $argument (i32.add (local.get $index) (i32.const 1))))
        (i32.store (i32.const 12) (call $length (i32.load (i32.const 8))))
        (if (call $write (call $place (call $argument (local.get $index))) (i32.const 8)
              (i32.const 1) (i32.const 16))
          (then (call $exit (i32.const 98))))
        (local.set $index (i32.add (local.get $index) (i32.const 2)))
        (br $next)))
    (call $exit (i32.sub (i32.load8_u (call $argument (i32.const 1))) (i32.const 48)))))
