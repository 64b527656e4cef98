# sluice_find_cuda_library(PREFIX HEADER LIBRARY WHEEL VERSION_PATTERN)
#
# A library of NVIDIA's that is loaded at run time: only its header is needed to build. Looks in $PREFIX_ROOT, in the toolkit,
# in the system's folders and in pip's wheels (site-packages/nvidia/WHEEL, since CUDA 13 nvidia/cu13, of the python3 that is
# found). Sets
# SLUICE_PREFIX_INCLUDE (empty: not found) and SLUICE_PREFIX_LIBRARY (a path, else LIBRARY itself), and prints what it found.
function(sluice_find_cuda_library prefix header library wheel version_pattern)
  set(places $ENV{${prefix}_ROOT} ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_ROOT})
  if(NOT DEFINED SLUICE_SITE_PACKAGES)
    execute_process(COMMAND python3 -c "import site, sys; print(';'.join(p for p in sys.path if p))"
                    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    set(SLUICE_SITE_PACKAGES "${found}" CACHE INTERNAL "")
  endif()
  foreach(path ${SLUICE_SITE_PACKAGES})
    list(APPEND wheels ${path}/nvidia/${wheel} ${path}/nvidia/cu${CUDAToolkit_VERSION_MAJOR})
  endforeach()
  find_path(SLUICE_${prefix}_INCLUDE ${header} HINTS ${places} PATHS ${CUDAToolkit_INCLUDE_DIRS} ${wheels} PATH_SUFFIXES include)
  get_filename_component(beside "${SLUICE_${prefix}_INCLUDE}" DIRECTORY)
  find_file(SLUICE_${prefix}_LIBRARY ${library} HINTS ${beside} ${places} PATHS ${CUDAToolkit_LIBRARY_DIR} ${wheels} /usr/lib /usr/local
            PATH_SUFFIXES lib lib64 lib/${CMAKE_LIBRARY_ARCHITECTURE})
  if(NOT SLUICE_${prefix}_INCLUDE)
    set(SLUICE_${prefix}_INCLUDE "" PARENT_SCOPE)
    message(STATUS "${prefix}: not built (no ${header} in ${prefix}_ROOT, the toolkit, the system's folders or pip's wheels)")
    return()
  endif()
  if(NOT SLUICE_${prefix}_LIBRARY)
    set(SLUICE_${prefix}_LIBRARY ${library} PARENT_SCOPE)
  endif()
  # "#define NCCL_MAJOR 2" and so on, joined by dots.
  file(STRINGS ${SLUICE_${prefix}_INCLUDE}/${version_pattern} lines REGEX "^#define (NCCL|CUDNN|CUBLAS_VER)_(MAJOR|MINOR|PATCH|PATCHLEVEL) ")
  string(REGEX REPLACE "#define [A-Z_]+ +" "" version "${lines}")
  string(REPLACE ";" "." version "${version}")
  message(STATUS "${prefix}: ${SLUICE_${prefix}_INCLUDE}/${header} ${version}; at run time ${library} or ${SLUICE_${prefix}_LIBRARY}")
endfunction()
