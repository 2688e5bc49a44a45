;; wasi:cli/run 0.3: looks up NAME, connects to PORT there, exits with 0, or 10 + the look-up's error code, 70 + connect's
(module
  (import "wasi:cli/exit@0.3.0" "exit-with-code" (func $exit (param i32)))
  (import "wasi:sockets/ip-name-lookup@0.3.0" "resolve-addresses" (func $resolve (param i32 i32 i32)))
  (import "wasi:sockets/types@0.3.0" "[static]tcp-socket.create" (func $create (param i32 i32)))
  (import "wasi:sockets/types@0.3.0" "[method]tcp-socket.connect"
    (func $connect (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (data (i32.const 1024) "NAME")
  (func (export "wasi:cli/run@0.3.0#run") (result i32) (local $s i32) (local $at i32)
    ;; result<list<ip-address>, error-code>: the tag at 0, pointer and length or the error's tag at 4
    (call $resolve (i32.const 1024) (i32.const LENGTH) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (call $exit (i32.add (i32.const 10) (i32.load8_u (i32.const 4))))))
    (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 9))))
    ;; ip-address: the variant's tag at 0, four bytes at 2
    (local.set $at (i32.add (i32.load (i32.const 4)) (i32.const 2)))
    (call $create (i32.const 0) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (call $exit (i32.const 8))))
    (local.set $s (i32.load (i32.const 4)))
    (call $connect (local.get $s) (i32.const 0) (i32.const PORT)
      (i32.load8_u (local.get $at)) (i32.load8_u offset=1 (local.get $at)) (i32.load8_u offset=2 (local.get $at)) (i32.load8_u offset=3 (local.get $at))
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (call $exit (i32.add (i32.const 70) (i32.load8_u (i32.const 4))))))
    (i32.const 0)))
