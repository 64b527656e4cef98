# sluice_room(NAME FOLDER [LINK target...] [EXCLUDE file...] [ONLY file...])
#
# One static library from the .cc, .cu and .proto files directly in FOLDER. Files are globbed with CONFIGURE_DEPENDS, so a new
# file is built by the next `cmake --build`. A folder with no source yet becomes an interface library.
set(SLUICE_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)
if(SLUICE_WARNINGS_AS_ERRORS)
  list(APPEND SLUICE_WARNINGS -Werror)
endif()

if(SANITIZER STREQUAL "address")
  # Left out of the latter: what AddressSanitizer finds too, where the access goes astray; a quarter of the compiler's
  # time.
  set(SLUICE_SANITIZE -fsanitize=address,undefined -fno-sanitize=null,vptr,object-size,pointer-overflow
      -fno-sanitize-recover=all -fno-omit-frame-pointer)
elseif(SANITIZER)
  set(SLUICE_SANITIZE -fsanitize=${SANITIZER} -fno-sanitize-recover=all -fno-omit-frame-pointer)
endif()

if(SANITIZER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC's manual: instrumented code gives false warnings. GCC 12 takes std::function inside of <regex> for uninitialised.
  list(APPEND SLUICE_WARNINGS -Wno-maybe-uninitialized)
endif()

function(sluice_room name folder)
  cmake_parse_arguments(ROOM "" "" "LINK;EXCLUDE;ONLY" ${ARGN})
  set(dir ${PROJECT_SOURCE_DIR}/${folder})
  if(ROOM_ONLY)
    foreach(file ${ROOM_ONLY})
      file(GLOB source CONFIGURE_DEPENDS ${dir}/${file})
      list(APPEND sources ${source})
    endforeach()
  else()
    file(GLOB sources CONFIGURE_DEPENDS ${dir}/*.cc ${dir}/*.cu ${dir}/commands/*.cc)
    file(GLOB protos CONFIGURE_DEPENDS ${dir}/*.proto)
    foreach(file ${ROOM_EXCLUDE})
      list(REMOVE_ITEM sources ${dir}/${file})
    endforeach()
  endif()
  if(protos)
    # Generated code lands in ${CMAKE_BINARY_DIR}/protos/<folder>/x.pb.h and is included as "<folder>/x.pb.h".
    foreach(proto ${protos})
      get_filename_component(stem ${proto} NAME_WE)
      set(out ${CMAKE_BINARY_DIR}/protos/${folder}/${stem}.pb)
      add_custom_command(
        OUTPUT ${out}.cc ${out}.h
        COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/protos
        COMMAND protobuf::protoc --cpp_out=${CMAKE_BINARY_DIR}/protos -I${PROJECT_SOURCE_DIR} ${proto}
        DEPENDS ${proto})
      list(APPEND generated ${out}.cc)
    endforeach()
  endif()
  if(NOT sources AND NOT generated)
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${ROOM_LINK})
    return()
  endif()
  add_library(${name} STATIC ${sources} ${generated})
  if(generated)
    set_source_files_properties(${generated} PROPERTIES COMPILE_OPTIONS "-w" SKIP_LINTING ON)
  endif()
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_include_directories(${name} SYSTEM PUBLIC ${CMAKE_BINARY_DIR}/protos)
  # No float contraction or reassociation the source does not spell out: the bits are part of the contract.
  set(options ${SLUICE_WARNINGS} -ffp-contract=off -fno-math-errno -fno-trapping-math)
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${options}>"
                         "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;--diag-suppress=940>")
  target_compile_options(${name} PUBLIC ${SLUICE_SANITIZE})
  target_link_options(${name} PUBLIC ${SLUICE_SANITIZE})
  target_link_libraries(${name} PUBLIC ${ROOM_LINK})
  # Not the CPU kernels: their files set the instruction set before they include.
  if(folder STREQUAL "kernels/cpu")
    set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)
  endif()
endfunction()
