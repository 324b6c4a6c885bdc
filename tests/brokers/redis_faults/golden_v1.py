"""Written by `golden_store.py`; not to be changed."""

TEXT = """\
c-qZa%WoUU87D<i59?vMw(J;%Q$abnE$V=)hiR*5ofht)e}H=>M%*E};c|DqyA&lE1}fSG;s8Z$RtX9;4X_mTpdPl7q(D!-X
n`IAx2FO<1V%5t7X1@CkDb}s7v)e25cy#4%s1bB-|u_Q*X&f`n)N#M&YvHcx&a$t?cvhGk_jz)X&I_&tD`EG{me~EpGEfNR%
hLUcFVnx!hfUh>&rJ}sDd>pyAx9W_Tv2FEomWtGq?D8<Sfk5!=Jj->2_xI-X>u&j9C~eP&7B4bKeqn&fy)nYAB|nmBX83cvA
&fUUW6uyew>v<ITFJ+^<8tbw${kz+1X0Lz5o6B<xM%y%JDN_hRnd`Ou#fU~`^auhbM9vyozy%`>D#!A6K+W*KTWx;zSRrPZk
btMXOqk~?UCGLk;;X7LZ%9grk9W9tT98YDudC3nPxpjd%&4y!V3Kuso4N$#kHm+J%@^aWOcg1}M{!&~lX5okpZH_06`K;0rg
qvE{J#JTK_iI&b&<1@u3(8raHwgvu?N};tEcc)v2Hn6JiGWy{Mv)b&E^w1^f``7=7@VOuWl)Bn_PLBFS{O~!!swTBFJNZlWa
k=T#A3Ke|r*8iD*N*&Am+QRi;nFpsZLX0Ov#x1)g`?zD(LeLJZQ8Fce$YA~B6wHv`^Q9^FH$#P0*p}zRHd~A48>XX0ASRd2M
L&BMNwt<4&gAxI9x#=)6KSC>NJ32w+-;D%Oj(;Pcb3qLU>STx<TEGF&o5qY&ga+Q-xCTqvL_-`7w<s(F||3j;I2Rh8=A>l?|
ujtT^SC1KP)3%8EznT^hNJ)m6-@*@oCN20r}PHMrT9{omdl{BRH@niIZHlY}VSv<C+z2%3jQHuca6c5D=zr|Ia9-Y(YCo^cp
0<FMgq8Fz%|fS=Huz*w9|AD5c#QX|tYRd;Nt0nKi82_r(zxwLE6tIXqQM$o<BZn<eaAnX@WQdMW!BcRoQG#?F8gOOgO(G(0Z
l9U$~a<@@ZUX-F&8Rb09_kR>o7hNk5`9W(3-AIhjfY?5!fe;d6A($7U*ct0gNtFH4`6vihLZ+HUh`in0lIxJ?rftgxHuOV3o
Rof!j{NkoN5z+)mlRF0(2)YL3pI;!TfKL@gEFwCYrD&9GZmo89TRBPfuNq>Lkz$B$YaQ}Qrk9<33WOE+*OhW;)q4OaKz?48C
iPU$9V(&U(hunb+oIB_=Wk1#+}9<vk|^7WY}Ir+!sy~oH|wltAM-o;N*MKbwu<|GN@nP`R6_I7xg7OM}1|}9imYjU+q(|6|v
4^xGI`0O1R1#_B%1X%)}h&lol3or?e30!Wz0+?bU^meXk4Kbk7s!8O)p%w?GfJAh}aye-Q6mny#<I5W!y~tl<h_M(ZP!VRAD
)w596h9WbLR8jK25qLeLaAX(QSHM(wBp!s=(ygbJ^j|sO$+46R1inT)$YlqS|16>X3empLu-zn-fLxrR_n{!8b-H&!ggE9ni
EXH2%^NFC+b%JJEtVNf+5<vEY^^554)vtlL`b7zXho}|lp-kK%N)YS;Jk$Pw8e2Sd*{lB^1wTf0!m3l9vaveh{a|@z82^wE4
vD9(cvY2=u!B)#Ri4Y|0`53BAN3Sf;{i7pYbIX(CaEG^u?gu`ZeE(t;TT)UeGxramZ%ec9P6~AIYf|s<U~NCf(sQ(iWS^q{w
3VGgEaW`!y}Z`Ogmg@{&a})N?o-JMO}u)EfX}JtElwALS3^Jl@q?Wdu<okHmn(TdIw(w%{}_x4T;q>7988QUWHov2#IN<cqq
_MXZ`otR4Sp~{UwDi4gm5olDU;6^GPD65=7)Nx=U}d(($s2h5fcyinmq7!3_HA?~stSCvCMnumx9^hZ4lPegbmr*?<sA4ZO`
Iiq$;d+$))&Xe+w*<(+@i5b0>T4UyH=lIUH3LpzV2^a)^+jd{v@1KgZ-9Kt{Q%{I9@%UO5qH3RPd3aEAX3)9ri-5RtklziKo
-nEf#a2XV<U0{=%Fe3?}@gKy`N%V;X&+1dv4!+S-AzoR}FJ5Z;jK|8FQDMnGBZYC^_ypbl+b7>#K#nH|WCF?$X7%dql5N)E!
$Uv!0Ny!dW!$EOW;SRQixz4U#Pd9NXVnO$G%r#%DCHmAY)PbCBs_DdjQjWV=LuT%XvN&^W>+a~plcHDD)N_=&}mM!I`~wVH_
ZqBftue}q*q8&VWMPX;a?dG-be4OyqhhmdXbAwF2w>8laM22Q?DDiEM?&endeCEkfoG0prW5I{mW2$Scg_?i@-KWG#SKN3JR
DiSAaYkQovB$_cr!WqE`WGiBYFtM6}z474gz-Lf6qi4dQ_V{cJkg0Nu4z-L`g3SVTRw^;POZa|^-nI+blJ@=@Tm)4?@6G;!H
Az?!NHwcooJi+)r@!4&bf%^mE>b?bF%IQ(uxYTv)GgVK#iPFwW%XjV+}>|^0U^EC9#^7I)-`uGMWx(Jh!KJ-9GOk_(-crv}z
wE|r&poa&B42#7T&ITW0Sly|3bv<oU@$WQGqamcxf$(@FIt6A){aA+_wVpM(zid_EnzI^K!hc6$HO|MYap!*#HJ*CHk09aq*
b9wF?$1a15PRQNYEZA^wO5(PdzecB$?eTv4#;-{D&>lu>8;6Rf+pS*F+r09;Y})-!CUD=p98N96l!2K(=D1P;PKD&Az_IHz*
f<F>oW1i&h=CXl70WFN>mXCoc%ZyJ^6^ZQ58vqrT-{8RqZu{?KTum)*FZ|nb@N47TFcIOW52OKj@9ZcwZ<Sic<}OLvYC13yI
wdYBQi|k>MvgTej%@^Q43rEB;vj;<FioAU<2_!;nYhEVTGC9n3z*Jr!<pLhHS?I`_4;;@Qp{*9l?ft@NSO3+{g6#*4et5$QQ
0mVPuKJtBW2>G%CvniyDQp_lA?hN<YLVy_MN<v=4}8|o}8m89ATrILJ~rsT&8INX<j2f~|8@C9!rNl4sGoh0OV@CAoO9O^A1
Z`!@4Jn79C?&%ZyaZzJre7%gIwR*l0w=J-Ohg5k1pgs1)5~?fyJPkCH!aEA%l06e#uDu~HNza;?<}dPq+kyC%W<5LYLoW2*6
7b&l2OUCq(}go|$6y8;3}v9(A>c!!kW&I512CPOB%{&gLkl5)kngj=f_DZOi_8gFoUIcEu=vKEs>=s{0*vJQ48qtSCSVu`zK
yYrr<m>_9wbIan#rK;v000l`OxQSAe)GTEd8y8Y)qKxgn;@#@j20?
"""
