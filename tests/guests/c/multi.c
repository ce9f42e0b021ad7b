/* Echoes stdin, or does what its first argument says. The guest of the calls in tests/golden/daprd-1.18.2/grpc.jsonl. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
extern char **environ;
static void put(const char *k, const char *s){ printf("%s %zu:%s\n", k, strlen(s), s); }
int main(int c, char **v){
  static char b[65536]; size_t n;
  if(c>1&&!strcmp(v[1],"exit")) exit(c>2?atoi(v[2]):0);
  if(c>1&&!strcmp(v[1],"outexit")) { fputs("partial",stdout); fflush(stdout); exit(atoi(v[2])); }
  if(c>1&&!strcmp(v[1],"err")) { fputs("to stderr",stderr); exit(c>2?atoi(v[2]):0); }
  if(c>1&&!strcmp(v[1],"trap")) __builtin_trap();
  if(c>1&&!strcmp(v[1],"oob")) { volatile char *p=(char*)0xfffffff0; return *p; }
  if(c>1&&!strcmp(v[1],"div")) { volatile int z=0; volatile int q=1/z; return q; }
  if(c>1&&!strcmp(v[1],"abort")) abort();
  if(c>1&&!strcmp(v[1],"rec")) { volatile char x[4096]; x[0]=1; char *a[]={v[0],v[1],0}; return main(2,a)+x[0]; }
  if(c>1&&!strcmp(v[1],"empty")) return 0;
  if(c>1&&!strcmp(v[1],"ret")) return atoi(v[2]);
  if(c>1&&!strcmp(v[1],"big")) { long m=atol(v[2]); memset(b,'x',sizeof b); while(m>0){ size_t k=m<(long)sizeof b?(size_t)m:sizeof b; fwrite(b,1,k,stdout); m-=k;} return 0; }
  if(c>1&&!strcmp(v[1],"dump")) { for(int i=0;i<c;i++) put("arg",v[i]); }
  if(c>1&&!strcmp(v[1],"env")) { for(char **e=environ;*e;e++) put("env",*e); return 0; }
  while((n=fread(b,1,sizeof b,stdin))>0) fwrite(b,1,n,stdout);
  return 0; }
